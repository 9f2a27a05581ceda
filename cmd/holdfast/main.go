// Holdfast keeps a self-hosted application running, recoverable and proven. Everything begins in internal/cli.
package main

import (
	"os"

	"holdfast/internal/cli"
)

func main() { os.Exit(cli.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }
