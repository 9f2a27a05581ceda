//go:build race

package compression

import (
	"runtime"
	"unsafe"
)

// ToldRead tells the race detector that all of b is read here: it does not look into zstd, in which it would spend a quarter of the
// tests' time (Makefile, RACE). Without the detector it does nothing.
func ToldRead(b []byte) {
	if len(b) > 0 {
		runtime.RaceReadRange(unsafe.Pointer(unsafe.SliceData(b)), len(b))
	}
}

// ToldWritten is ToldRead for what zstd has written.
func ToldWritten(b []byte) {
	if len(b) > 0 {
		runtime.RaceWriteRange(unsafe.Pointer(unsafe.SliceData(b)), len(b))
	}
}
