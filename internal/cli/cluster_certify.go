package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"holdfast/internal/api"
	"holdfast/internal/local"
	"holdfast/internal/plan"
)

// certifying are the words of one certificate.
type certifying struct {
	root, plan, out, output string
	yes, founds             bool
}

func clusterCertifyCommand() *cobra.Command {
	f := &certifying{}
	cmd := &cobra.Command{
		Use:   "certify HOST",
		Short: "Make the certificate that a host of the plan needs on a machine of its own",
		Long: `Issues a key and a certificate with the host's name and address, by the application's own authority, and says what to
copy where. The authority is the one that holdfast up made below the data root; where there is none yet, it is made, with
a certificate for operators beside it. Keep its directory (ca) on the machine where you run this, and nowhere else but in
a safe place.

With the first certificate it is written down whose etcd members found the application: those of the plan. Each of
them is told so once, with its own first certificate. Any other host, and one that gets a certificate again, founds nothing with it;
what runs goes on, and an empty disk is taken in by those that run.`,
		Example: `  holdfast cluster certify east-2 --plan holdfast.yaml
  holdfast cluster certify east-4 --plan holdfast.yaml --out /root/for-east-4`,
		Args: usageArgs(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd, args[0]) },
	}
	cmd.Flags().StringVar(&f.root, "root", "", "the data root whose authority issues (default: below /var/lib/holdfast)")
	cmd.Flags().StringVar(&f.plan, "plan", planFileDefault, "the plan file that has the host")
	cmd.Flags().StringVar(&f.out, "out", "", "directory for the files (default: where an agent of this data root looks for them)")
	cmd.Flags().BoolVar(&f.yes, "yes", false, "put the new certificate in the place of one that is there")
	cmd.Flags().BoolVar(&f.founds, "founds", false, "the application has never run: it is founded by the etcd members of this plan (certify each host anew)")
	outputFlag(cmd, &f.output)
	return cmd
}

func (f *certifying) run(cmd *cobra.Command, name string) error {
	p, err := goodPlan(cmd, f.plan)
	if err != nil {
		return err
	}
	if _, ok := p.Host(name); !ok {
		unknown := api.UnknownHost(name, p.HostNames())
		return &unknown
	}
	ask, err := f.asked(p, name)
	if err != nil {
		return err
	}
	done, err := local.Certify(ask)
	if err != nil {
		return err
	}
	if f.output == "json" {
		enc := json.NewEncoder(cmd.OutOrStdout())
		enc.SetIndent("", "  ")
		return enc.Encode(done)
	}
	return writeCertified(cmd.OutOrStdout(), done)
}

// asked finds the root: the one that is named, or where the application's data lie when nobody says otherwise.
func (f *certifying) asked(p *plan.Plan, name string) (local.Asked, error) {
	root := f.root
	if root == "" {
		root = os.Getenv("HOLDFAST_ROOT")
	}
	if root == "" {
		root = local.DefaultRoot(p.Application)
	}
	ask := local.Asked{Plan: p, Host: name, Replace: f.yes, Founds: f.founds}
	var err error
	if ask.Root, err = filepath.Abs(root); err != nil {
		return ask, err
	}
	if ask.PlanFile, err = filepath.Abs(f.plan); err != nil {
		return ask, err
	}
	if f.out != "" {
		if ask.Dir, err = filepath.Abs(f.out); err != nil {
			return ask, err
		}
	}
	if c, err := local.ReadContext(ask.Root); err == nil {
		ask.Plan = local.AsRun(c, p) // `up` gave its hosts addresses on loopback
	}
	return ask, nil
}

func writeCertified(out io.Writer, c local.Certified) error {
	var b strings.Builder
	if c.Made {
		fmt.Fprintf(&b, "The application's authority was made with it. Keep a copy in a safe place: whoever has it can be any host.\n")
	}
	fmt.Fprintf(&b, "%s at %s: valid until %s.\n", c.Host, c.Address, c.Until.Local().Format("2006-01-02"))
	fmt.Fprintf(&b, "Copy, so that nobody else can read the keys (mode 0600):\n  %s\nof %s\nto %s below the data root of its machine.\n", strings.Join(c.Files, ", "), c.Dir, c.Copy)
	switch {
	case c.Founds:
		fmt.Fprintf(&b, "It founds the application with %s.\n", strings.Join(c.Founders, ", "))
	case c.Again:
		fmt.Fprintf(&b, "It founds nothing with it: it was certified before. If it runs, it goes on; if its disk is empty, those that run take it in. Has the application never run: once more with --founds --yes.\n")
	default:
		fmt.Fprintf(&b, "It founds nothing: it waits until the plan that is applied has it, and those that run take it in.\n")
	}
	_, err := io.WriteString(out, b.String())
	return err
}
