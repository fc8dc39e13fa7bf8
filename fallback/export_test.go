package fallback

// Forget makes a Dir leave every value to its file as soon as it has one.
func Forget(o Options) Options {
	o.forget = true
	return o
}
