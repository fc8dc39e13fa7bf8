package converge

import (
	"flag"
	"os"
	"testing"

	"go.uber.org/goleak"
)

var (
	schedulesFlag = flag.Int("schedules", 200, "how many schedules are run")
	seedFlag      = flag.Uint64("seed", 0, "of the first schedule; the next ones have the next ones. 0: a new one")
	viewsFlag     = flag.Int("views", -1, "how many schedules with views are run; -1: a fifth of -schedules")
	lanesFlag     = flag.Int("lanes", 6, "how many schedules are run at once, each with a server of its own")
	roundsFlag    = flag.Int("rounds", 40, "how many histories of registers are checked, of each kind")
)

func TestMain(m *testing.M) {
	if config := os.Getenv(childConfig); config != "" {
		os.Exit(runChild(config))
	}
	// rueidis sleeps for a second before it looks at a topology again that it could not read,
	// whether it is closed or not.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/redis/rueidis.(*call).DelayDo.func1"))
}
