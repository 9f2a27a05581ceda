package disktest

import (
	"io"
	"os/exec"
	"syscall"
)

// RemoveBehindUs starts a shell that waits for the end of this process, which closes the pipe, and then removes the directory: for
// what many tests share, of which none knows that it is the last. What still writes there is being killed meanwhile, so it may take
// more than one try. The pipe is for the caller to hold: what nothing refers to is closed.
func RemoveBehindUs(dir string) (io.Closer, error) {
	const script = `cat; n=0; until rm -rf -- "$1" || [ $n = 50 ]; do sleep 0.1; n=$((n+1)); done`
	sweeper := exec.Command("sh", "-c", script, "sh", dir)
	sweeper.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // a ^C is for the tests
	pipe, err := sweeper.StdinPipe()
	if err != nil {
		return nil, err
	}
	return pipe, sweeper.Start()
}
