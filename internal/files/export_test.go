package files

// WhenRead tells f how far each file is read, while it is being read.
func (o Options) WhenRead(f func(path string, at int64)) Options {
	o.reading = f
	return o
}
