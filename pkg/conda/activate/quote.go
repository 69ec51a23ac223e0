package activate

// Quote makes one word of any text, as the shell reads it.
func (s Shell) Quote(text string) string {
	if s == Fish {
		return quoteFish(text)
	}
	return quote(text)
}
