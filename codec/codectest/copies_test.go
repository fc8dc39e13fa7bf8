package codectest

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/redaside/aside/codec"
)

// currency is a type of which there is one value for each name.
type currency struct{ Name string }

type price struct{ In *currency }

var euro = &currency{"EUR"}

func prices() codec.Codec[price] {
	return codec.Func(func(price) (string, error) { return "EUR", nil }, func(string) (price, error) { return price{euro}, nil })
}

// cloning is a codec with a Clone.
type cloning struct {
	broken
	clone func(thing) thing
}

func (c cloning) Clone(v thing) thing { return c.clone(v) }

// sure is a codec that says of all values that they come back.
type sure struct{ broken }

func (sure) RoundTrips(thing, string) bool { return true }

func TestTheSuiteFailsWhatIsSaidOfCopies(t *testing.T) {
	euros := []price{{euro}}
	assert.NotContains(t, failures(prices(), euros), "what a Fresher decodes refers to nothing that was there before")
	failed := failures(codec.Fresh(prices()), euros, Mutate(func(*price) bool { return false }))
	assert.Contains(t, failed["what a Fresher decodes refers to nothing that was there before"], "two decoded values have the same *codectest.currency: DecodesFresh must report false")

	honest := broken{encodeThing, decodeThing}
	deep := func(v thing) thing { v.Tags = slices.Clone(v.Tags); return v }
	assert.Empty(t, failures[thing](cloning{honest, deep}, things()))
	failed = failures[thing](cloning{honest, func(v thing) thing { return v }}, things())
	assert.Contains(t, failed["a clone equals its value and shares no mutable memory with it"], "changing a clone changed its value")
	failed = failures[thing](cloning{honest, func(thing) thing { return thing{} }}, things())
	assert.Contains(t, failed["a clone equals its value and shares no mutable memory with it"], "its clone is another value")

	assert.Empty(t, failures[thing](sure{honest}, things()))
	forgetful := broken{func(v thing) (string, error) { v.Tags = nil; return encodeThing(v) }, decodeThing}
	failed = failures[thing](sure{forgetful}, things(), Equal(func(thing, thing) bool { return true }))
	assert.Contains(t, failed["a value of which RoundTrips is true comes back as it was"], "it comes back as another value")
}
