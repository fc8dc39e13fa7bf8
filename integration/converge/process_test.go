package converge

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
)

// A process is a node that can be killed: the test binary started again. Both sides speak in lines
// of JSON. The parent asks, the child answers; the child asks for what its loaders want, the parent
// answers that. A child whose input has ended closes its client and ends.

const childConfig = "ASIDE_CONVERGE_NODE" // a nodeConfig

// line is what travels, in either direction.
type line struct {
	ID       int // of the call, or of the load
	Request  *request
	Answer   *answer
	Load     []string // keys
	Loaded   map[string]string
	Ready    bool
	Fatal    string
	LoadDone bool
}

// wire writes lines, each by one write. Safe for concurrent use.
type wire struct {
	mu  sync.Mutex // held while writing
	out io.Writer
}

func (w *wire) send(l line) error {
	b, err := json.Marshal(l)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	_, err = w.out.Write(append(b, '\n'))
	return err
}

// calls are those that wait for an answer. Safe for concurrent use.
type calls[T any] struct {
	mu    sync.Mutex
	made  int            // guarded by mu
	open  map[int]chan T // guarded by mu; nil once ended
	ended bool           // guarded by mu
}

// begin returns where the answer comes; the channel is closed if none will.
func (c *calls[T]) begin() (id int, answer chan T) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.made++
	answer = make(chan T, 1)
	if c.ended {
		close(answer)
		return c.made, answer
	}
	if c.open == nil {
		c.open = make(map[int]chan T)
	}
	c.open[c.made] = answer
	return c.made, answer
}

func (c *calls[T]) finish(id int, answer T) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if ch := c.open[id]; ch != nil {
		ch <- answer
		delete(c.open, id)
	}
}

func (c *calls[T]) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	for _, ch := range c.open {
		close(ch)
	}
	c.open = nil
}

// runChild is the main of a child.
func runChild(text string) int {
	out := &wire{out: os.Stdout}
	var config nodeConfig
	if err := json.Unmarshal([]byte(text), &config); err != nil {
		_ = out.send(line{Fatal: err.Error()})
		return 1
	}
	var loads calls[map[string]string]
	n, err := newLocal(config, func(keys []string) map[string]string {
		id, answer := loads.begin()
		if out.send(line{ID: id, Load: keys}) != nil {
			return nil
		}
		return <-answer
	})
	if err != nil {
		_ = out.send(line{Fatal: err.Error()})
		return 1
	}
	_ = out.send(line{Ready: true})
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		var l line
		if err := json.Unmarshal(in.Bytes(), &l); err != nil {
			_ = out.send(line{Fatal: err.Error()})
			return 1
		}
		if l.Request == nil {
			loads.finish(l.ID, l.Loaded)
			continue
		}
		go func() { // ends with the call
			a := n.do(*l.Request)
			_ = out.send(line{ID: l.ID, Answer: &a})
		}()
	}
	loads.end()
	if err := n.end(); err != nil {
		_ = out.send(line{Fatal: err.Error()})
		return 1
	}
	return 0
}

// process is a child as its parent sees it.
type process struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	wire   *wire
	calls  calls[answer]
	exited chan struct{} // closed when it has ended, and all calls have their answers

	mu    sync.Mutex
	fatal string // guarded by mu
}

var errCrashed = answer{Err: "the process was killed", Crashed: true}

func startProcess(c nodeConfig, load loadFunc) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	config, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	p := &process{cmd: exec.Command(self), exited: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), childConfig+"="+string(config), "GORACE=halt_on_error=1")
	p.cmd.Stderr = os.Stderr
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	p.wire = &wire{out: p.in}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	ready := make(chan struct{}, 1)
	go func() { // ends with the child
		defer close(p.exited)
		defer p.calls.end()
		var loads sync.WaitGroup
		defer loads.Wait()
		for in := bufio.NewReader(out); ; {
			text, err := in.ReadBytes('\n')
			if err != nil {
				return // what the kill has cut off was not said
			}
			var l line
			if err := json.Unmarshal(text, &l); err != nil {
				l.Fatal = fmt.Sprintf("%v: %s", err, text)
			}
			switch {
			case l.Fatal != "":
				p.mu.Lock()
				p.fatal = l.Fatal
				p.mu.Unlock()
				_ = p.cmd.Process.Kill() // a goroutine that waits for its answers must not wait for ever
			case l.Ready:
				ready <- struct{}{}
			case l.Answer != nil:
				p.calls.finish(l.ID, *l.Answer)
			case l.Load != nil:
				loads.Go(func() { // ends with the source
					_ = p.wire.send(line{ID: l.ID, Loaded: load(l.Load)})
				})
			}
		}
	}()
	select {
	case <-ready:
		return p, nil
	case <-p.exited:
		return nil, errors.Join(fmt.Errorf("the process has not started: %s", p.whyFatal()), p.cmd.Wait())
	}
}

func (p *process) whyFatal() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.fatal
}

func (p *process) do(r request) answer {
	id, answer := p.calls.begin()
	if p.wire.send(line{ID: id, Request: &r}) != nil {
		return errCrashed
	}
	if a, ok := <-answer; ok {
		return a
	}
	return errCrashed
}

// kill is kill -9, and returns when the process has gone.
func (p *process) kill() error {
	err := p.cmd.Process.Kill()
	<-p.exited
	_ = p.cmd.Wait()
	if why := p.whyFatal(); why != "" {
		err = errors.Join(err, errors.New(why))
	}
	return err
}

func (p *process) end() error {
	_ = p.in.Close()
	<-p.exited
	err := p.cmd.Wait()
	if why := p.whyFatal(); why != "" {
		err = errors.Join(err, errors.New(why))
	}
	return err
}
