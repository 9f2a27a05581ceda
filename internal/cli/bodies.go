package cli

import (
	"fmt"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"holdfast/internal/auth"
	"holdfast/internal/clock"
	"holdfast/internal/cluster/heartbeat"
	"holdfast/internal/database/gate"
	"holdfast/internal/edge/proxy"
	"holdfast/internal/host"
	"holdfast/internal/keeper"
	"holdfast/internal/vault/confined"
)

// The hidden commands below are the bodies of processes; nobody types them.

func body(use, short string, run func(cmd *cobra.Command, spec string) error) *cobra.Command {
	return &cobra.Command{
		Use: use + " SPECFILE", Short: short, Hidden: true, Args: usageArgs(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error { return run(cmd, args[0]) },
	}
}

// childLog is what a child process says; its keeper keeps and rotates it.
func childLog() *slog.Logger { return slog.New(slog.NewTextHandler(os.Stderr, nil)) }

func keeperCommand() *cobra.Command {
	return body("keeper", "Be the parent of one long-lived process", func(_ *cobra.Command, spec string) error {
		return keeper.Main(spec)
	})
}

func gateCommand() *cobra.Command {
	return body("gate", "Be a database's listener", func(cmd *cobra.Command, file string) error {
		spec, err := gate.ReadSpec(file)
		if err != nil {
			return err
		}
		if spec.BeatListen == "" { // nothing else of it needs a certificate
			return gate.Run(cmd.Context(), gate.Config{Spec: spec, Log: childLog()})
		}
		conf, err := auth.ServerTLS(spec.CertDir)
		if err != nil {
			return fmt.Errorf("read the listener's certificate: %w", err)
		}
		others, err := auth.ClientTLS(spec.CertDir, "")
		if err != nil {
			return fmt.Errorf("read the listener's certificate: %w", err)
		}
		beats := heartbeat.NewPublisher(spec.Host+"/"+spec.Database, clock.Real())
		defer beats.Close()
		if err := beats.Publish([]byte(`{}`)); err != nil {
			return err
		}
		return gate.Run(cmd.Context(), gate.Config{Spec: spec, Log: childLog(), Beats: beats, BeatsTLS: conf, OthersTLS: others})
	})
}

func edgeCommand() *cobra.Command {
	return body("edge", "Be the balancer of this host", func(cmd *cobra.Command, file string) error {
		return proxy.Main(cmd.Context(), file, childLog())
	})
}

func etcdMemberCommand() *cobra.Command {
	return body("etcd-member", "Be a member of the embedded etcd", func(cmd *cobra.Command, file string) error {
		return host.RunMember(cmd.Context(), file, childLog())
	})
}

func reclaimCommand() *cobra.Command {
	return &cobra.Command{
		Use: confined.Verb, Short: "Free space in a vault, as its parent says", Hidden: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return confined.Serve(cmd.Context(), os.Stdin, cmd.OutOrStdout())
		},
	}
}
