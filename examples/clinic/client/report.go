package client

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
)

// Report writes what clients saw as a table, one line for each phase and path.
func Report(w io.Writer, phases []Phase) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	// A tabwriter hands on the first failed write with Flush.
	fmt.Fprintln(t, "PHASE\tPATH\tLONGEST GAP\tFAILED\tSLOW\tACKNOWLEDGED\tP50\tP99\tERRORS")
	for _, p := range phases {
		for _, path := range []Path{EdgeWrite, EdgeRead, ListenerWrite} {
			f, used := p.Paths[path]
			if !used {
				continue
			}
			kinds := ""
			for _, k := range slices.Sorted(maps.Keys(f.Kinds)) {
				kinds += fmt.Sprintf("%d× %s  ", f.Kinds[k], k)
			}
			fmt.Fprintf(t, "%s\t%s\t%.2f s\t%d\t%d\t%d\t%.1f ms\t%.1f ms\t%s\n", p.Name, path, f.LongestGap.Seconds(),
				f.Failed, f.Slow, f.Acknowledged, f.P50.Seconds()*1e3, f.P99.Seconds()*1e3, kinds)
		}
	}
	return t.Flush()
}
