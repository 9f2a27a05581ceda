package main

import "fmt"

// price is what one store asks for keeping data, without requests and traffic: list prices as their owners publish them.
// They age: look before you decide by them.
type price struct {
	store string
	short string
	usd   float64 // for 10^9 bytes a month
}

// priceDate is when the book was noted. Nothing fetches it.
const priceDate = "2026-11"

var priceBook = []price{
	{"Amazon S3 Standard, us-east-1", "S3", 0.023},
	{"Azure Blob hot, locally redundant", "Azure hot", 0.018},
	{"Amazon S3 Glacier Instant Retrieval", "Glacier IR", 0.004},
	{"Backblaze B2", "B2", 0.006},
}

// scenario is the classic comparison's size, in 10^9 bytes of data, kept as one full backup and daily incrementals of 1 %.
const (
	scenario     = 350.0
	scenarioDays = 14
)

// prices prints what two weeks of backups of a database of the classic comparison's size would cost a month, by the shares
// of the data that each system stored in this run.
func (b *bench) prices(p func(format string, args ...any)) {
	p("\n%.0f GB, one full backup and %d incrementals of 1 %%: USD a month for storage alone, by list prices noted in %s\n", scenario, scenarioDays-1, priceDate)
	p("system\tGB")
	for _, x := range priceBook {
		p("\t%s", x.short)
	}
	p("\n")
	share := func(r result) float64 { return float64(r.stored) / float64(r.bytes) }
	for _, s := range b.systems {
		full, again := median(each(b.of(s.name, "full"), share)), median(each(b.of(s.name, clustered.what), share))
		if s.again == nil {
			again = full
		}
		gb := scenario * (full + (scenarioDays-1)*again)
		p("%s\t%.0f", s.name, gb)
		for _, x := range priceBook {
			p("\t%s", fmt.Sprintf("%.2f", gb*x.usd))
		}
		p("\n")
	}
	for _, x := range priceBook {
		p("%s: %s, %.3f USD for 10^9 bytes a month\n", x.short, x.store, x.usd)
	}
}
