package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"
)

// children are the processes that ask. For one goroutine, except that stop may be called at any
// time after round.
type children struct {
	prefix string // of this run's keys; they expire by themselves within a minute
	all    []*child
}

type child struct {
	cmd     *exec.Cmd
	in      io.WriteCloser
	answers chan answer // closed when the child's output ends
}

// headStart is how long before the callers start their processes are told, so that all are ready.
const headStart = 20 * time.Millisecond

func startChildren(set settings, redis string) (*children, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	config, err := json.Marshal(childSettings{Redis: redis, Callers: set.callers, Loader: set.loader})
	if err != nil {
		return nil, err
	}
	cs := &children{prefix: "aside-stampede:" + rand.Text()[:8]}
	for range set.processes {
		c, err := startChild(self, string(config))
		if err != nil {
			return nil, errors.Join(err, cs.stop())
		}
		cs.all = append(cs.all, c)
	}
	for _, c := range cs.all { // each says when it is ready
		if _, ok := <-c.answers; !ok {
			return nil, errors.Join(errors.New("a process ended before it was ready"), cs.stop())
		}
	}
	return cs, nil
}

func startChild(program, config string) (*child, error) {
	cmd := exec.Command(program)
	cmd.Env = append(os.Environ(), childEnv+"="+config)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	c := &child{cmd: cmd, in: in, answers: make(chan answer, 1)}
	go func() { // ends with the child's output; at most one answer is under way
		defer close(c.answers)
		for d := json.NewDecoder(out); ; {
			var a answer
			if d.Decode(&a) != nil {
				return
			}
			c.answers <- a
		}
	}()
	return c, nil
}

// round lets everybody ask for a new key and waits for all answers, or for ctx.
func (cs *children) round(ctx context.Context, n int) (round, error) {
	line, err := json.Marshal(task{Key: fmt.Sprintf("%s:%d", cs.prefix, n), Start: time.Now().Add(headStart).UnixNano()})
	if err != nil {
		return round{}, err
	}
	for _, c := range cs.all {
		if _, err := c.in.Write(append(line, '\n')); err != nil {
			return round{}, err
		}
	}
	var all []answer
	for _, c := range cs.all {
		select {
		case a, ok := <-c.answers:
			if !ok {
				return round{}, errors.New("a process ended before its time")
			}
			if a.Error != "" {
				return round{}, errors.New(a.Error)
			}
			all = append(all, a)
		case <-ctx.Done():
			return round{}, ctx.Err()
		}
	}
	return newRound(all), nil
}

// stop closes the children's stdin, which ends them, and kills those that are still there a little
// later.
func (cs *children) stop() error {
	var errs []error
	for _, c := range cs.all {
		_ = c.in.Close()
	}
	for _, c := range cs.all {
		kill := time.AfterFunc(3*time.Second, func() { _ = c.cmd.Process.Kill() })
		for range c.answers { // Wait may close the pipe only when all has been read
		}
		if err := c.cmd.Wait(); err != nil {
			errs = append(errs, fmt.Errorf("a process ended with %w", err))
		}
		kill.Stop()
	}
	cs.all = nil
	return errors.Join(errs...)
}
