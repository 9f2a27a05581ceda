package plan

import "testing"

func TestSizesAreWrittenAsPostgreSQLWritesThem(t *testing.T) {
	for text, want := range map[string]int64{"1MB": 1 << 20, "50MB": 50 << 20, "20GB": 20 << 30, "3TB": 3 << 40, "1500MB": 1500 << 20} {
		got, err := parseSize(text)
		if err != nil || got != want {
			t.Errorf("%s: %d, %v", text, got, err)
		}
		if back, err := parseSize(formatSize(want)); err != nil || back != want {
			t.Errorf("%d is shown as %s", want, formatSize(want))
		}
	}
	for _, text := range []string{"", "0MB", "20", "20gb", "1.5GB", "-1MB", "9999999999TB", "10KB", "1MB/s"} {
		if n, err := parseSize(text); err == nil {
			t.Errorf("%q was taken for %d", text, n)
		}
	}
}
