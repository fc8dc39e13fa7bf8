package benchmarks

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/redaside/aside/benchmarks/internal/bench"
)

// TestMachine prints the line that belongs above every figure, for run.sh.
func TestMachine(t *testing.T) {
	redis := bench.Redis(t)
	defer redis.Close()
	parts := []string{cpu(), fmt.Sprintf("%d cores", runtime.NumCPU()), runtime.GOOS + "/" + runtime.GOARCH, runtime.Version(), bench.Version(redis)}
	modules, err := exec.Command("go", "list", "-m", "-f", "{{.Path}} {{.Version}}",
		"github.com/redis/rueidis", "github.com/redis/rueidis/rueidisaside", "github.com/maypok86/otter/v2", "github.com/go-redis/cache/v9", "github.com/redis/go-redis/v9", "github.com/viccon/sturdyc").Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(modules)) {
		parts = append(parts, strings.TrimPrefix(strings.TrimSpace(line), "github.com/"))
	}
	fmt.Println("machine: " + strings.Join(parts, ", "))
}

func cpu() string {
	info, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(info)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown CPU"
}
