package codec_test

import (
	"fmt"

	"github.com/redaside/aside/codec"
)

func ExampleJSON() {
	type City struct {
		Name    string   `json:"name"`
		Rivers  []string `json:"rivers,omitempty"`
		Founded int      `json:"founded"`
	}
	c := codec.JSON[City]()

	s, err := c.Encode(City{Name: "Bern", Rivers: []string{"Aare"}, Founded: 1191})
	fmt.Println(s, err)

	city, err := c.Decode(s)
	fmt.Println(city.Name, city.Rivers, err)

	_, err = c.Decode(`{"name":"Bern","founded":"long ago"}`)
	fmt.Println(err != nil)
	// Output:
	// {"name":"Bern","rivers":["Aare"],"founded":1191} <nil>
	// Bern [Aare] <nil>
	// true
}
