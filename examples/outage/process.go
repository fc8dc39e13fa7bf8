package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"github.com/redaside/aside/examples/internal/ownredis"
)

// process is the service as its parent has it. For one goroutine. A nil one was not started.
type process struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	done   chan message // answers to commands; closed when its output ends
	events chan message // what it tells unasked; closed likewise
}

func startService(ctx context.Context, set serviceSettings) (p *process, ready message, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, message{}, err
	}
	config, err := json.Marshal(set)
	if err != nil {
		return nil, message{}, err
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), serviceEnv+"="+string(config))
	cmd.Stderr = os.Stderr
	ownredis.DieWithUs(cmd)
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, message{}, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, message{}, err
	}
	if err := cmd.Start(); err != nil {
		return nil, message{}, err
	}
	p = &process{cmd: cmd, in: in, done: make(chan message, 1), events: make(chan message, 1<<16)}
	go func() { // ends with the process's output
		defer close(p.events)
		defer close(p.done)
		for d := json.NewDecoder(out); ; {
			var m message
			if d.Decode(&m) != nil {
				return
			}
			if m.Kind == "done" || m.Kind == "ready" {
				p.done <- m
			} else {
				p.events <- m
			}
		}
	}()
	if ready, err = p.answer(ctx); err != nil {
		p.kill()
		return nil, message{}, err
	}
	return p, ready, nil
}

// begin gives a command and does not wait for its end.
func (p *process) begin(c command) error {
	line, err := json.Marshal(c)
	if err != nil {
		return err
	}
	_, err = p.in.Write(append(line, '\n'))
	return err
}

// answer waits for the end of a command. What the command itself says is wrong is in the message.
func (p *process) answer(ctx context.Context) (message, error) {
	select {
	case m, ok := <-p.done:
		if !ok {
			return m, errors.New("the service ended before its time")
		}
		return m, nil
	case <-ctx.Done():
		return message{}, ctx.Err()
	}
}

// do is begin and answer.
func (p *process) do(ctx context.Context, c command) (message, error) {
	if err := p.begin(c); err != nil {
		return message{}, err
	}
	m, err := p.answer(ctx)
	if err == nil && m.Err != "" {
		err = fmt.Errorf("%s %s: %s", c.Do, c.Key, m.Err)
	}
	return m, err
}

// await hands over what the service tells until enough says that it is, or within has passed; it
// reports which.
func (p *process) await(ctx context.Context, within time.Duration, enough func(message) bool) (bool, error) {
	timer := time.NewTimer(within)
	defer timer.Stop()
	for {
		select {
		case m, ok := <-p.events:
			if !ok {
				return false, errors.New("the service ended before its time")
			}
			if enough(m) {
				return true, nil
			}
		case <-timer.C:
			return false, nil
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
}

// kill is kill -9. It returns what the service had still told, when the process is gone.
func (p *process) kill() (last []message) {
	if p == nil {
		return nil
	}
	_ = p.cmd.Process.Kill()
	return p.drain()
}

// stop closes its stdin, as which it ends by itself.
func (p *process) stop() error {
	_ = p.in.Close()
	timer := time.AfterFunc(10*time.Second, func() { _ = p.cmd.Process.Kill() })
	defer timer.Stop()
	p.drain()
	if state := p.cmd.ProcessState; !state.Success() {
		return fmt.Errorf("the service ended with %s", state)
	}
	return nil
}

// drain reads to the end of its output: what it has written before its end is still in the pipe.
func (p *process) drain() (last []message) {
	for range p.done { // closed first
	}
	for m := range p.events {
		last = append(last, m)
	}
	_ = p.cmd.Wait() // what it says is in ProcessState
	return last
}
