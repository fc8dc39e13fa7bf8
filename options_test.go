package aside

import (
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/fallback"
)

func TestZeroOptionsAreUsable(t *testing.T) {
	o := Options{}.withDefaults()
	require.NoError(t, o.validate())
	require.Equal(t, []string{"127.0.0.1:6379"}, o.Redis.InitAddress)
	require.Equal(t, time.Second, o.ConnectTimeout)
	require.Equal(t, 250*time.Millisecond, o.RedisTimeout)
	require.Equal(t, 2*time.Second, o.LockTTL)
	require.Equal(t, 30*time.Second, o.LoadTimeout)
	require.Equal(t, time.Second, o.StaleLease)
	require.EqualValues(t, 64<<20, o.MemoryBytes)
	require.Equal(t, 1<<10, o.MaxKeyBytes)
	require.Equal(t, 8<<20, o.MaxValueBytes)
	require.Equal(t, 30*time.Second, o.NegativeTTL)
	require.Equal(t, 30*time.Second, o.DegradedTTL)
	require.Equal(t, 256, o.MaxLoaders)
	require.Equal(t, time.Hour, o.StampTTL)
	require.Equal(t, 5000, o.ReplayRate)
}

// Each bad field is reported, in one error, with its value and what to do.
func TestBadOptionsAreReportedAllAtOnce(t *testing.T) {
	_, err := New(Options{
		Redis: rueidis.ClientOption{
			InitAddress: []string{" "}, ClientTrackingOptions: []string{"BCAST"}, PipelineMultiplex: 2, DisableRetry: true,
			DisableAutoPipelining: true, BlockingPipeline: 7, ReplicaOnly: true, SendToReplicas: func(rueidis.Completed) bool { return true },
			RetryDelay: func(int, rueidis.Completed, error) time.Duration { return 0 }, AlwaysRESP2: true,
		},
		ConnectTimeout: -1, RedisTimeout: -2, LockTTL: -3, LoadTimeout: -4, StaleLease: -5,
		MemoryBytes: -6, MaxKeyBytes: -7, MaxValueBytes: -8, NegativeTTL: -9,
		DegradedTTL: -10, MaxLoaders: -11, MaxLoads: -17, StampTTL: -12, ReplayRate: -13, ReplayFills: 14,
		FallbackDir: "/here", Store: fallback.NewMemory(0), Fallback: fallback.Options{MaxQueue: -15, MaxBytes: -16},
	})
	require.Error(t, err)
	for _, want := range []string{
		`Redis.InitAddress is [" "]`, "Redis.ClientTrackingOptions", "Redis.PipelineMultiplex", "Redis.DisableRetry", "Redis.DisableAutoPipelining",
		"Redis.BlockingPipeline", "Redis.ReplicaOnly", "Redis.SendToReplicas", "Redis.RetryDelay", "Redis.AlwaysRESP2",
		"ConnectTimeout is -1ns", "RedisTimeout is -2ns", "LockTTL is -3ns", "LoadTimeout is -4ns", "StaleLease is -5ns",
		"MemoryBytes is -6", "MaxKeyBytes is -7", "MaxValueBytes is -8", "NegativeTTL is -9ns",
		"DegradedTTL is -10ns", "MaxLoaders is -11", "MaxLoads is -17", "StampTTL is -12ns", "ReplayRate is -13", "ReplayFills is ReplayFills(14)",
		`FallbackDir ("/here")`, "fallback.Options.MaxQueue is -15", "fallback.Options.MaxBytes is -16",
	} {
		require.ErrorContains(t, err, want)
	}
	for line := range strings.SplitSeq(err.Error(), "\n") {
		require.Regexp(t, `^aside: (fallback\.)?Options\.`, line)
	}

	for field, o := range map[string]Options{
		"LockTTL":       {LockTTL: 100 * time.Millisecond},
		"StaleLease":    {StaleLease: time.Millisecond},
		"RedisTimeout":  {RedisTimeout: time.Microsecond},
		"MaxKeyBytes":   {MaxKeyBytes: 1 << 40},
		"MaxValueBytes": {MaxValueBytes: 1 << 40},
	} {
		_, err := New(o)
		require.ErrorContains(t, err, "Options."+field+" is ")
		require.NotContains(t, err.Error(), "\n", "one problem, one line")
	}
}

// Every number among the options has an upper bound: one that is too large would overflow, or
// switch something off, silently.
func TestEveryOptionHasAnUpperBound(t *testing.T) {
	numbers := 0
	var try func(path string, pick func(*Options) reflect.Value)
	try = func(path string, pick func(*Options) reflect.Value) {
		var o Options
		switch field := pick(&o); {
		case field.Kind() == reflect.Struct && (path == "" || path == "Fallback"):
			for i := range field.NumField() {
				if f := field.Type().Field(i); f.IsExported() {
					try(strings.TrimPrefix(path+"."+f.Name, "."), func(o *Options) reflect.Value { return pick(o).Field(i) })
				}
			}
		case field.CanInt():
			numbers++
			field.SetInt(math.MaxInt64)
			_, name, nested := strings.Cut(path, ".")
			if !nested {
				name = path
			}
			err := o.withDefaults().validate()
			if name == "DB" { // set by New
				return
			}
			require.ErrorContains(t, err, "Options."+name+" is ", path)
		}
	}
	try("", func(o *Options) reflect.Value { return reflect.ValueOf(o).Elem() })
	require.Greater(t, numbers, 18)

	for _, scale := range []int{-1, 19} {
		o := Options{Redis: rueidis.ClientOption{RingScaleEachConn: scale}}
		require.ErrorContains(t, o.withDefaults().validate(), "Options.Redis.RingScaleEachConn is ")
	}
}

func TestADurationThatIsABareNumberIsRefused(t *testing.T) {
	for _, field := range []string{"ConnectTimeout", "RedisTimeout", "LockTTL", "LoadTimeout", "StaleLease", "StampTTL", "MemoryTTL", "NegativeTTL", "ErrorTTL"} {
		var o Options
		reflect.ValueOf(&o).Elem().FieldByName(field).SetInt(60)
		require.ErrorContains(t, o.withDefaults().validate(), "Options."+field+" is 60ns: must be at least 1ms; a bare number counts nanoseconds, write 60*time.Second for seconds")
	}
}
