// Command clinic is Holdfast's example application: appointments for dental practices.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
	_ "time/tzdata" // a host without zone files still knows CLINIC_TIMEZONE

	"golang.org/x/sync/errgroup"

	"holdfast/examples/clinic/reminders"
	"holdfast/examples/clinic/store"
	"holdfast/examples/clinic/web"
)

const version = "1.0.0"

const usage = `clinic: appointments for dental practices (the example application of Holdfast)

  clinic web         serve pages and the JSON API on HOLDFAST_ADDRESS:PORT
  clinic reminders   send each due reminder once; listens on nothing; run one instance
  clinic version     print the version

Environment:
  DATABASE_URL       postgres://user:password@host:port/database (required)
  HOLDFAST_ADDRESS   address to listen on (127.0.0.1)
  PORT               port to listen on (8080)
  HOLDFAST_INSTANCE  name of this instance (address or host name, and process id)
  CLINIC_TIMEZONE    zone of the times on the pages (UTC)
  CLINIC_DEADLINE    longest that a request waits for the database (10s)
`

// stopGrace bounds how long requests in progress may take after SIGTERM. It is longer than the default
// deadline of a request, so that each of them gets its answer.
const stopGrace = 12 * time.Second

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "clinic:", err)
		os.Exit(1)
	}
}

// run is main without the process around it.
func run(ctx context.Context, args []string, env func(string) string, stdout, stderr io.Writer) error {
	if len(args) != 1 {
		return errors.New("exactly one command is needed: web, reminders, version or help")
	}
	switch args[0] {
	case "help", "-h", "--help":
		_, err := io.WriteString(stdout, usage)
		return err
	case "version", "--version":
		_, err := fmt.Fprintln(stdout, version)
		return err
	case "web", "reminders":
	default:
		return fmt.Errorf("%q is not a command (web, reminders, version or help)", args[0])
	}

	instance := or(env("HOLDFAST_INSTANCE"), fmt.Sprintf("%s-%d", or(env("HOLDFAST_ADDRESS"), hostName()), os.Getpid()))
	log := slog.New(slog.NewTextHandler(stderr, nil)).With("service", args[0], "instance", instance)
	if env("DATABASE_URL") == "" {
		return errors.New("DATABASE_URL is not set; see clinic help")
	}
	s, err := store.Open(store.Config{URL: env("DATABASE_URL"), Application: "clinic " + args[0] + " " + instance, Log: log})
	if err != nil {
		return err
	}
	defer s.Close()

	if args[0] == "reminders" {
		if err := s.MigrateWhenPossible(ctx); err != nil {
			return nil // asked to stop before the database came
		}
		log.InfoContext(ctx, "reminders started", "version", version)
		return reminders.Run(ctx, s, instance, time.Second, log)
	}
	return serve(ctx, s, instance, env, log)
}

// serve answers HTTP until ctx ends and the requests in progress have their answers.
func serve(ctx context.Context, s *store.Store, instance string, env func(string) string, log *slog.Logger) error {
	cfg := web.Config{Store: s, Version: version, Instance: instance, Log: log}
	var err error
	if cfg.Zone, err = time.LoadLocation(or(env("CLINIC_TIMEZONE"), "UTC")); err != nil {
		return fmt.Errorf("read CLINIC_TIMEZONE: %w", err)
	}
	if cfg.Deadline, err = time.ParseDuration(or(env("CLINIC_DEADLINE"), "10s")); err != nil || cfg.Deadline <= 0 {
		return fmt.Errorf("read CLINIC_DEADLINE: %q is not a duration above 0 such as 10s", env("CLINIC_DEADLINE"))
	}
	front, err := web.New(cfg)
	if err != nil {
		return err
	}
	address := net.JoinHostPort(or(env("HOLDFAST_ADDRESS"), "127.0.0.1"), or(env("PORT"), "8080"))
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("listen for requests: %w", err)
	}
	server := &http.Server{
		Handler:           front,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       time.Minute,
		WriteTimeout:      2 * time.Minute,
		IdleTimeout:       2 * time.Minute, // longer than a balancer keeps its idle connections
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	log.InfoContext(ctx, "web started", "address", listener.Addr().String(), "version", version)

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		if err := s.MigrateWhenPossible(ctx); err == nil {
			front.Ready()
			log.InfoContext(ctx, "web ready")
		}
		return nil
	})
	g.Go(func() error {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve requests: %w", err)
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		front.Drain()
		log.Info("web stopping")
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopGrace)
		defer cancel()
		if err := server.Shutdown(grace); err != nil {
			return errors.Join(fmt.Errorf("finish the requests in progress: %w", err), server.Close())
		}
		return nil
	})
	return g.Wait()
}

func or(value, fallback string) string {
	if value == "" {
		return fallback
	}
	return value
}

func hostName() string {
	name, err := os.Hostname()
	if err != nil {
		return "clinic"
	}
	return name
}
