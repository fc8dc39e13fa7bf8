package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

type drillCmd struct {
	Fraction float64       `name:"fraction" default:"0.01" help:"The share of the keys, above 0 and at most 1."`
	For      time.Duration `name:"for" default:"1m" help:"How long the drill runs; ctrl-C ends it sooner."`
	URL      string        `name:"url" placeholder:"URL" help:"Where the proxy is, such as http://127.0.0.1:9997. By default the one that the same configuration and environment would start on this machine."`
	Config   string        `name:"config" short:"c" placeholder:"FILE" env:"ASIDE_CONFIG" help:"Configuration file, which has the token, too. By default conf.yaml in this directory, if it is there."`
}

// Help implements kong.HelpProvider.
func (*drillCmd) Help() string {
	return "Reads of a share of the keys that the proxy has not in memory are refused meanwhile, as in an outage. Writes go to Redis as ever. " +
		"The drill ends when this command does, however that ends, and when Redis is really lost. The token is that of the configuration (service.token, ASIDE_SERVICE_TOKEN)."
}

// drillLine is what the proxy says of a drill.
type drillLine struct {
	Running    bool   `json:"running"`
	Error      string `json:"error"`
	TookMS     int64  `json:"took_ms"`
	MemoryHits int64  `json:"memory_hits"`
	Reads      int64  `json:"reads"`
	Unanswered int64  `json:"unanswered"`
}

func (l drillLine) String() string {
	return fmt.Sprintf("after %v: %d reads of the share that memory did not have, %d of them refused; memory has answered %d (of all keys)",
		(time.Duration(l.TookMS) * time.Millisecond).Round(100*time.Millisecond), l.Reads, l.Unanswered, l.MemoryHits)
}

func (d *drillCmd) Run(e *env) error {
	if !(d.Fraction > 0 && d.Fraction <= 1) {
		return usageError{fmt.Errorf("--fraction is %v: must be above 0 and at most 1, the share of the keys", d.Fraction)}
	}
	if d.For <= 0 {
		return usageError{fmt.Errorf("--for is %v: must be positive", d.For)}
	}
	// Whether it may serve strangers does not matter here: a flag may have permitted it.
	c, _, err := loadConfig(d.Config, map[string]string{"service.insecure": "true"})
	if err != nil {
		return err
	}
	where := d.URL
	if where == "" {
		if where, err = healthURL(c.Service); err != nil {
			return err
		}
	}
	at, err := url.Parse(where)
	if err != nil || at.Host == "" {
		return usageError{fmt.Errorf("--url is %q: must be like http://127.0.0.1:9997", where)}
	}
	at.Path, at.RawQuery = "/drill", url.Values{"fraction": {strconv.FormatFloat(d.Fraction, 'g', -1, 64)}}.Encode()
	ctx, stop := signal.NotifyContext(e.ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, d.For)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, at.String(), nil)
	if err != nil {
		return usageError{fmt.Errorf("--url: %w", err)}
	}
	if c.Service.Token != "" {
		request.Header.Set("Authorization", "Bearer "+c.Service.Token)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("the proxy does not answer: %w", err)
	}
	defer func() { _ = response.Body.Close() }() // was only read from
	if response.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(response.Body, 1000))
		return fmt.Errorf("%s says %s: %s", at.Host, response.Status, strings.TrimSpace(string(body)))
	}
	e.printf("a drill runs for %v, with %v of the keys; ctrl-C ends it\n", d.For, d.Fraction)
	var last drillLine
	lines := bufio.NewScanner(response.Body)
	for lines.Scan() {
		if err := json.Unmarshal(lines.Bytes(), &last); err != nil {
			return fmt.Errorf("%s does not answer as a proxy of aside does: %w", at.Host, err)
		}
		if last.Running {
			e.printf("%v\n", last)
		}
	}
	switch {
	case ctx.Err() != nil:
	case last.Error != "":
		err = errors.New(strings.TrimPrefix(last.Error, "aside: "))
	case lines.Err() != nil:
		err = fmt.Errorf("the connection to the proxy was lost, and the drill has ended with it: %w", lines.Err())
	default:
		err = errors.New("the proxy has ended the drill: it is about to stop")
	}
	e.printf("the drill has ended, %v\n", last)
	return err
}
