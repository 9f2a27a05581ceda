// Command clinicload runs the clinic's measuring client by hand: it writes until it is interrupted, then
// prints what clients saw and whether every acknowledged row is there.
package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"holdfast/examples/clinic/client"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "clinicload:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	var cfg client.Config
	flags := flag.NewFlagSet("clinicload", flag.ContinueOnError)
	flags.StringVar(&cfg.EdgeURL, "edge", "", "the application's `URL`, such as https://clinic.example:8443")
	ca := flags.String("ca", "", "PEM `file` with the authorities to trust (default: the machine's own)")
	resolve := flags.String("resolve", "", "the edges' `addresses`, host:port, separated by commas")
	listeners := flags.String("listeners", "", "connection `strings` of the database's listeners, separated by commas")
	verify := flags.String("verify", "", "connection `string` to read the rows back from (default: the first listener)")
	flags.StringVar(&cfg.LogFile, "log", "", "`file` that gets a line for each outcome")
	flags.StringVar(&cfg.Client, "client", "", "`name` of the rows (default: random)")
	length := flags.Duration("for", 0, "stop after this long (default: until interrupted)")
	flags.Usage = func() {
		fmt.Fprintln(flags.Output(), "clinicload [flags]\n\nWrites until interrupted. Each line typed begins a phase of that name.")
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); err != nil {
		return err
	}
	cfg.ResolveTo, cfg.Listeners = list(*resolve), list(*listeners)
	if *ca != "" {
		pem, err := os.ReadFile(*ca)
		if err != nil {
			return fmt.Errorf("read the authorities: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return fmt.Errorf("read the authorities: no certificate in %s", *ca)
		}
		cfg.TLS = &tls.Config{RootCAs: pool}
	}
	if *verify == "" && len(cfg.Listeners) > 0 {
		*verify = cfg.Listeners[0]
	}
	c, err := client.New(cfg)
	if err != nil {
		return err
	}
	if *length > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, *length)
		defer cancel()
	}
	// Reading the terminal cannot be interrupted; the process's end ends it.
	go func() {
		for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
			c.Mark(lines.Text())
		}
	}()
	fmt.Printf("writing as %s\n", c.Name())
	if err := c.Run(ctx); err != nil {
		return err
	}
	if err := client.Report(os.Stdout, c.Phases()); err != nil {
		return fmt.Errorf("print the report: %w", err)
	}
	if *verify == "" {
		fmt.Println("not verified: neither -verify nor -listeners was given")
		return nil
	}
	reading, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	verdict, err := c.Verify(reading, *verify)
	if err != nil {
		return err
	}
	fmt.Printf("acknowledged rows: %d, lost: %d\n", verdict.Acknowledged(), verdict.Lost())
	return verdict.Err()
}

func list(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(text, ",")
}
