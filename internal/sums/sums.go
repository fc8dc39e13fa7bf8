// Package sums computes SHA-1 and MD5 where others have decided on them: Redis names scripts by
// their SHA-1, and record files are named by the MD5 of their key. Neither secures anything, so
// both work under GODEBUG=fips140=only, too, where the standard library's would panic.
package sums

import (
	"crypto/fips140"
	"crypto/md5"
	"crypto/sha1"
)

// SHA1 returns the SHA-1 of s.
func SHA1(s string) [sha1.Size]byte {
	if fips140.Enforced() {
		return unenforced(sha1.Sum, s)
	}
	return sha1.Sum([]byte(s))
}

// MD5 returns the MD5 of s.
func MD5(s string) [md5.Size]byte {
	if fips140.Enforced() {
		return unenforced(md5.Sum, s)
	}
	return md5.Sum([]byte(s))
}

func unenforced[D any](sum func([]byte) D, s string) (d D) {
	fips140.WithoutEnforcement(func() { d = sum([]byte(s)) })
	return d
}
