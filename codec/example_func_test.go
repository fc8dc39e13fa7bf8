package codec_test

import (
	"fmt"
	"net/netip"

	"github.com/redaside/aside/codec"
)

// Two functions that are there already make a codec.
func ExampleFunc() {
	addresses := codec.Func(
		func(a netip.Addr) (string, error) { return a.String(), nil },
		netip.ParseAddr,
	)

	s, err := addresses.Encode(netip.AddrFrom4([4]byte{192, 0, 2, 1}))
	fmt.Println(s, err)

	a, err := addresses.Decode(s)
	fmt.Println(a.Is4(), err)
	// Output:
	// 192.0.2.1 <nil>
	// true <nil>
}
