// Package slot says in which of a Redis Cluster's 16384 hash slots a key lives.
package slot

import (
	"strconv"
	"strings"
	"sync"
)

// Count is the number of hash slots of every Redis Cluster.
const Count = 16384

// Of returns the hash slot of key: CRC16 (XMODEM) of the key, or of its hash tag, modulo [Count].
// The tag is what stands between the first '{' and the first '}' after it, where that is not empty.
// (Redis Cluster specification, "Hash tags".)
func Of(key string) uint16 {
	if open := strings.IndexByte(key, '{'); open >= 0 {
		if length := strings.IndexByte(key[open+1:], '}'); length > 0 {
			key = key[open+1 : open+1+length]
		}
	}
	var crc uint16
	for i := range len(key) {
		crc = crc<<8 ^ table[byte(crc>>8)^key[i]]
	}
	return crc % Count
}

// table is CRC16-XMODEM, polynomial 0x1021, a byte at a time.
var table = func() (t [256]uint16) {
	for i := range t {
		crc := uint16(i) << 8
		for range 8 {
			carry := crc&0x8000 != 0
			crc <<= 1
			if carry {
				crc ^= 0x1021
			}
		}
		t[i] = crc
	}
	return t
}()

// Tag returns a hash tag of at most four characters that puts a key into slot s: "{" + Tag(s) + "}"
// + anything.
func Tag(s uint16) string { return tags()[s] }

var tags = sync.OnceValue(func() *[Count]string { // some 170,000 attempts: five milliseconds, once
	var all [Count]string
	for i, left := 0, Count; left > 0; i++ {
		if tag := strconv.FormatInt(int64(i), 36); all[Of(tag)] == "" {
			all[Of(tag)] = tag
			left--
		}
	}
	return &all
})
