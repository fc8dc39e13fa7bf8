package zstd_test

import (
	"fmt"
	"strings"

	"github.com/redaside/aside/codec"
	"github.com/redaside/aside/codec/zstd"
)

// Values of 1 KiB and more are compressed, where that makes them smaller.
func ExampleNew() {
	c := zstd.New(codec.JSON[[]string](), 1024)

	small, _ := c.Encode([]string{"a", "b"})
	fmt.Println(small)

	many := strings.Fields(strings.Repeat("the same words over and over ", 100))
	large, _ := c.Encode(many)
	plain, _ := codec.JSON[[]string]().Encode(many)
	fmt.Printf("%d bytes, less than a tenth of that stored: %t\n", len(plain), len(large) < len(plain)/10)

	// What was written before it was switched on is read too.
	words, err := c.Decode(plain)
	fmt.Println(len(words), err)
	// Output:
	// ["a","b"]
	// 4101 bytes, less than a tenth of that stored: true
	// 600 <nil>
}
