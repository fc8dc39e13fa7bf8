package link

import (
	"context"
	"fmt"
	"strings"

	"github.com/redis/rueidis"
)

// guardedClient refuses what must not be sent on a shared connection. Its Close does nothing.
type guardedClient struct{ rueidis.Client }

func (g *guardedClient) Close() {}

func (g *guardedClient) Do(ctx context.Context, cmd rueidis.Completed) rueidis.RedisResult {
	if err := refuse(cmd); err != nil {
		return rueidis.NewErrorResult(err)
	}
	return g.Client.Do(ctx, cmd)
}

func (g *guardedClient) DoMulti(ctx context.Context, multi ...rueidis.Completed) []rueidis.RedisResult {
	if err := refuse(multi...); err != nil {
		return errorResults(len(multi), err)
	}
	return g.Client.DoMulti(ctx, multi...)
}

func (g *guardedClient) DoStream(ctx context.Context, cmd rueidis.Completed) rueidis.RedisResultStream {
	if err := refuse(cmd); err != nil {
		return rueidis.NewErrorResultStream(err)
	}
	return g.Client.DoStream(ctx, cmd)
}

func (g *guardedClient) DoMultiStream(ctx context.Context, multi ...rueidis.Completed) rueidis.MultiRedisResultStream {
	if err := refuse(multi...); err != nil {
		return rueidis.NewErrorResultStream(err)
	}
	return g.Client.DoMultiStream(ctx, multi...)
}

func (g *guardedClient) Dedicated(fn func(rueidis.DedicatedClient) error) error {
	return g.Client.Dedicated(func(d rueidis.DedicatedClient) error { return fn(guardedDedicated{d}) })
}

func (g *guardedClient) Dedicate() (rueidis.DedicatedClient, func()) {
	d, release := g.Client.Dedicate()
	return guardedDedicated{d}, release
}

func (g *guardedClient) Nodes() map[string]rueidis.Client {
	nodes := g.Client.Nodes()
	guarded := make(map[string]rueidis.Client, len(nodes))
	for addr, node := range nodes {
		guarded[addr] = &guardedClient{node}
	}
	return guarded
}

// guardedDedicated refuses what rueidis cannot bear even there.
type guardedDedicated struct{ rueidis.DedicatedClient }

func (g guardedDedicated) Do(ctx context.Context, cmd rueidis.Completed) rueidis.RedisResult {
	if err := refuseAnywhere(cmd); err != nil {
		return rueidis.NewErrorResult(err)
	}
	return g.DedicatedClient.Do(ctx, cmd)
}

func (g guardedDedicated) DoMulti(ctx context.Context, multi ...rueidis.Completed) []rueidis.RedisResult {
	if err := refuseAnywhere(multi...); err != nil {
		return errorResults(len(multi), err)
	}
	return g.DedicatedClient.DoMulti(ctx, multi...)
}

// refuseAnywhere returns why some of the commands cannot be sent by rueidis at all.
func refuseAnywhere(multi ...rueidis.Completed) error {
	for i := range multi {
		switch name := commandName(multi[i].Commands()); name {
		case "MONITOR", "SYNC", "PSYNC", "CLIENT REPLY":
			return fmt.Errorf("%w: %s answers in a way that rueidis takes for an error of the protocol: use redis-cli, or a connection that you have dialed yourself", ErrShared, name)
		}
	}
	return nil
}

// refuse returns why some of the commands must not be sent on a connection that others share; nil
// if they may.
func refuse(multi ...rueidis.Completed) error {
	if err := refuseAnywhere(multi...); err != nil {
		return err
	}
	within := false // a transaction that these commands have begun
	for i := range multi {
		name := commandName(multi[i].Commands())
		switch name {
		case "MULTI":
			if !within {
				within = true
				continue
			}
		case "EXEC", "DISCARD":
			if within {
				within = false
				continue
			}
		case "SELECT", "AUTH", "HELLO", "RESET", "QUIT", "WATCH", "UNWATCH", "ASKING", "READONLY", "READWRITE",
			"SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE", "UNSUBSCRIBE", "PUNSUBSCRIBE", "SUNSUBSCRIBE",
			"CLIENT TRACKING", "CLIENT CACHING", "CLIENT NO-TOUCH", "CLIENT NO-EVICT", "CLIENT CAPA":
		default:
			continue
		}
		return errShared(name)
	}
	if within {
		return errShared("MULTI without EXEC in the same DoMulti")
	}
	return nil
}

func errShared(name string) error {
	return fmt.Errorf("%w: %s would change it for everybody: use Dedicated() or Dedicate() for a connection of your own, and Receive for subscriptions", ErrShared, name)
}

// commandName is the name of a command, of CLIENT with its subcommand.
func commandName(words []string) string {
	if len(words) == 0 {
		return ""
	}
	name := strings.ToUpper(words[0])
	if name == "CLIENT" && len(words) > 1 {
		name += " " + strings.ToUpper(words[1])
	}
	return name
}
