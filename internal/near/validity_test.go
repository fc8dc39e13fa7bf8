package near

import (
	"testing"

	"github.com/stretchr/testify/require"
)

const (
	soon  = 10 // when the tests below look
	later = 1000
)

// served is what may be served at soon.
type served struct {
	read bool // what was read on the connection that was proven before the transition
	away bool // what was loaded in the outage in which the transition happened, or in the latest before it
}

// Each row is one transition of a server that was well: what may be served before and after it, and
// what was read once the server is found to be away next.
func TestWhatMayBeServedAfterEachTransition(t *testing.T) {
	var (
		nothing = served{}
		healthy = served{read: true}
		away    = served{read: true, away: true}
		degrade = func(v *Validity) { v.Degrade(later) }
		prove   = func(v *Validity) { v.Prove(v.Epoch(), later) }
	)
	for name, row := range map[string]struct {
		before     func(v *Validity)
		was        served
		happens    func(v *Validity)
		is         served
		nextOutage bool // what was read is served in it
	}{
		"the connection is lost":                     {nil, healthy, (*Validity).NewEpoch, nothing, true},
		"the connection is lost in an outage":        {degrade, away, (*Validity).NewEpoch, away, true},
		"the next connection is proven":              {(*Validity).NewEpoch, nothing, prove, nothing, false},
		"the next connection is proven in an outage": {func(v *Validity) { v.Degrade(later); v.NewEpoch() }, away, prove, served{away: true}, false},
		"a proof comes of the connection before":     {nil, healthy, func(v *Validity) { old := v.Epoch(); v.NewEpoch(); v.Prove(old, later) }, nothing, true},
		"the lease lapses":                           {nil, healthy, func(v *Validity) { v.Prove(v.Epoch(), soon) }, nothing, true},
		"the lease is renewed":                       {func(v *Validity) { v.Prove(v.Epoch(), soon) }, nothing, prove, healthy, true},
		"an outage begins":                           {nil, healthy, degrade, served{read: true}, true},
		"an outage lasts longer than may be":         {func(v *Validity) { v.NewEpoch() }, nothing, func(v *Validity) { v.Degrade(soon) }, nothing, true},
		"the outage ends":                            {degrade, away, (*Validity).Restore, healthy, true},
		"the next outage begins":                     {func(v *Validity) { v.Degrade(later); v.Restore() }, healthy, degrade, served{read: true}, true},
		"no pushes arrive":                           {nil, healthy, func(v *Validity) { require.True(t, v.Deafen()) }, nothing, false},
		"no pushes arrive in an outage":              {degrade, away, func(v *Validity) { require.True(t, v.Deafen()) }, served{away: true}, false},
		"no pushes arrive once more":                 {func(v *Validity) { v.Deafen() }, nothing, func(v *Validity) { require.False(t, v.Deafen()) }, nothing, false},
		"a proof comes while none arrive":            {func(v *Validity) { v.Deafen() }, nothing, prove, nothing, false},
		"pushes arrive again":                        {func(v *Validity) { v.Deafen() }, nothing, func(v *Validity) { require.True(t, v.Hear()); prove(v) }, nothing, false},
		"pushes arrive as they did":                  {nil, healthy, func(v *Validity) { require.False(t, v.Hear()) }, healthy, true},
		"a slot leaves":                              {nil, healthy, (*Validity).InvalidateAll, nothing, false},
		"a slot leaves in an outage":                 {degrade, away, (*Validity).InvalidateAll, nothing, false},
		"the server leaves":                          {nil, healthy, (*Validity).Retire, nothing, false},
		"the server leaves in an outage":             {degrade, away, (*Validity).Retire, nothing, false},
		"a proof comes of a server that has left":    {func(v *Validity) { v.Degrade(later); v.Retire() }, served{away: true}, prove, served{away: true}, false},
	} {
		t.Run(name, func(t *testing.T) {
			v := NewValidity(true)
			v.Restore()
			prove(v)
			epoch := v.Epoch()
			if row.before != nil {
				row.before(v)
			}
			outage := v.Outage()
			now := func() served { return served{v.ServesRead(epoch, soon), v.ServesAway(outage)} }
			require.Equal(t, row.was, now(), "before")
			row.happens(v)
			require.Equal(t, row.is, now(), "after")
			v.Restore()
			v.Degrade(later)
			require.Equal(t, served{read: row.nextOutage}, now(), "in the outage that follows")
		})
	}
}

// What is read after a transition, and when it is served.
func TestWhatIsReadOnTheNextConnection(t *testing.T) {
	for name, row := range map[string]struct {
		happens func(v *Validity)
		proves  bool // a probe of the next connection counts
		early   bool // what was read there before is served in an outage
	}{
		"lost":    {(*Validity).NewEpoch, true, true},
		"deaf":    {func(v *Validity) { v.Deafen() }, false, true},
		"heard":   {func(v *Validity) { v.Deafen(); v.Hear() }, true, true},
		"a slot":  {(*Validity).InvalidateAll, true, true},
		"retired": {(*Validity).Retire, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			v := NewValidity(true)
			v.Restore()
			v.Prove(v.Epoch(), later)
			row.happens(v)
			v.Restore()
			require.False(t, v.ServesRead(v.Epoch(), soon), "not before a proof")
			require.Equal(t, name != "deaf", v.Pushes(), "what may be stored")
			epoch := v.Epoch()
			v.Prove(epoch, later)
			require.Equal(t, row.proves, v.ServesRead(epoch, soon))
			v.Degrade(later)
			require.Equal(t, row.early, v.ServesRead(epoch, soon))
		})
	}
}

// Of a server that has not answered yet nothing is served that was read, and what was loaded
// meanwhile is.
func TestANewServerIsInItsFirstOutage(t *testing.T) {
	for _, tracked := range []bool{true, false} {
		v := NewValidity(tracked)
		require.Equal(t, tracked, v.Tracked())
		require.Equal(t, tracked, v.Pushes())
		require.False(t, v.ServesRead(v.Epoch(), soon))
		require.True(t, v.ServesAway(v.Outage()))
		v.Restore()
		require.False(t, v.ServesAway(v.Outage()))
	}
}
