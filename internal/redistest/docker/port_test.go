//go:build docker

package main

import (
	"context"
	"net"
	"net/netip"
	"os"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/wait"
)

// A container that is stopped and started gets another host port, unless it was given one. This is
// the recipe of docs/TESTING.md, on a real engine.
func TestAContainerKeepsThePortThatItWasGiven(t *testing.T) {
	ctx := context.Background()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(free.Addr().String())
	free.Close()

	redis, err := testcontainers.Run(ctx, image(),
		testcontainers.WithExposedPorts("6379/tcp"),
		testcontainers.WithHostConfigModifier(func(h *container.HostConfig) {
			h.PortBindings = network.PortMap{
				network.MustParsePort("6379/tcp"): {{HostIP: netip.MustParseAddr("127.0.0.1"), HostPort: port}},
			}
		}),
		testcontainers.WithWaitStrategy(wait.ForListeningPort("6379/tcp").SkipInternalCheck()))
	testcontainers.CleanupContainer(t, redis)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if addr, err := redis.PortEndpoint(ctx, "6379/tcp", ""); err != nil || addr != "127.0.0.1:"+port {
			t.Fatalf("it is at %s, %v, instead of 127.0.0.1:%s", addr, err, port)
		}
		if err := redis.Stop(ctx, nil); err != nil {
			t.Fatal(err)
		}
		if err := redis.Start(ctx); err != nil {
			t.Fatal(err)
		}
	}
}

func image() string {
	if image := os.Getenv("REDIS_IMAGE"); image != "" {
		return image
	}
	return "redis:7-alpine"
}
