package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/redaside/aside/cmd/aside/internal/ops"
	"github.com/redaside/aside/cmd/aside/internal/proxy/config"
	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/internal/stamp"
	"github.com/redaside/aside/internal/wire"
)

type explainCmd struct {
	Key     string        `arg:"" help:"The key."`
	URL     string        `name:"url" placeholder:"URL" help:"Where the proxy is, such as http://127.0.0.1:9997. By default the one that the same configuration and environment would start on this machine."`
	Dir     string        `name:"dir" placeholder:"DIR" help:"Explain what a fallback directory has of the key, and ask no proxy. Nothing in it is changed, and a proxy may be using it."`
	Value   bool          `name:"value" help:"Show the value, too."`
	JSON    bool          `name:"json" help:"Print JSON."`
	Config  string        `name:"config" short:"c" placeholder:"FILE" env:"ASIDE_CONFIG" help:"Configuration file, which has the token, too. By default conf.yaml in this directory, if it is there."`
	Timeout time.Duration `name:"timeout" default:"10s" help:"How long the proxy may take."`
}

// Help implements kong.HelpProvider.
func (*explainCmd) Help() string {
	return "Tells what the memory of a running proxy and Redis have of KEY, who wrote it last, who loads it, and what waits to be replayed; with --dir, what a directory has. " +
		"It changes nothing. The token is that of the configuration (service.token, ASIDE_SERVICE_TOKEN).\n\nExit code 1: the proxy does not answer, or the directory has nothing of KEY."
}

func (c *explainCmd) Run(e *env) error {
	switch {
	case c.Dir != "" && c.URL != "":
		return usageError{errors.New("--dir and --url are given: a directory is read without a proxy, so leave one of them out")}
	case c.Dir != "":
		return c.directory(e)
	}
	format := "text"
	if c.JSON {
		format = "json"
	}
	query := url.Values{"key": {c.Key}, "format": {format}}
	if c.Value {
		query.Set("value", "1")
	}
	ctx, cancel := context.WithTimeout(e.ctx, c.Timeout)
	defer cancel()
	body, err := askProxy(ctx, c.Config, c.URL, "/explain", query)
	if err != nil {
		return err
	}
	if c.JSON {
		var pretty bytes.Buffer
		if err := json.Indent(&pretty, body, "", "  "); err != nil {
			return fmt.Errorf("the proxy does not answer as one of aside does: %w", err)
		}
		body = pretty.Bytes()
	}
	e.printf("%s", plainLines(string(body)))
	return nil
}

// mostAnswered is more than an explanation can be: the first MiB of a value, in base64, and the rest.
const mostAnswered = 8 << 20

// askProxy asks a running proxy, by default the one that the configuration would start here.
func askProxy(ctx context.Context, file, where, at string, query url.Values) ([]byte, error) {
	// Whether it may serve strangers does not matter here: a flag may have permitted it.
	c, _, err := loadConfig(file, map[string]string{"service.insecure": "true"})
	if err != nil {
		return nil, err
	}
	client := new(http.Client)
	if where == "" {
		if where, err = healthURL(c.Service); err != nil {
			return nil, err
		}
		if client, err = clientOf(c.Service); err != nil {
			return nil, err
		}
	}
	to, err := url.Parse(where)
	if err != nil || to.Host == "" {
		return nil, usageError{fmt.Errorf("--url is %q: must be like http://127.0.0.1:9997", where)}
	}
	to.Path, to.RawQuery = at, query.Encode()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, to.String(), nil)
	if err != nil {
		return nil, usageError{fmt.Errorf("--url: %w", err)}
	}
	if c.Service.Token != "" {
		request.Header.Set("Authorization", "Bearer "+c.Service.Token)
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("the proxy does not answer: %w", err)
	}
	defer func() { _ = response.Body.Close() }() // was only read from
	body, err := io.ReadAll(io.LimitReader(response.Body, mostAnswered))
	if err != nil {
		return nil, fmt.Errorf("the proxy does not answer: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		var problem struct{ Detail string }
		if json.Unmarshal(body, &problem) == nil && problem.Detail != "" {
			return nil, fmt.Errorf("%s says %s: %s", to.Host, response.Status, problem.Detail)
		}
		return nil, fmt.Errorf("%s says %s: %.1000s", to.Host, response.Status, strings.TrimSpace(string(body)))
	}
	return body, nil
}

// clientOf asks the proxy on this machine. Its certificate is made out to a name, and we ask at an
// address: it must be the very one that the configuration names, since the token is sent there.
func clientOf(s config.Service) (*http.Client, error) {
	if s.TLS.Cert == "" {
		return new(http.Client), nil
	}
	content, err := os.ReadFile(s.TLS.Cert)
	if err != nil {
		return nil, usageError{fmt.Errorf("service.tls.cert: %w: name a file that this user may read, or the proxy with --url", err)}
	}
	block, _ := pem.Decode(content)
	if block == nil {
		return nil, usageError{fmt.Errorf("service.tls.cert is %q, which holds no certificate (PEM)", s.TLS.Cert)}
	}
	ours := block.Bytes
	return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{
		InsecureSkipVerify: true, // in favour of the stricter check
		VerifyPeerCertificate: func(shown [][]byte, _ [][]*x509.Certificate) error {
			if len(shown) == 0 || !bytes.Equal(shown[0], ours) {
				return errors.New("what answers shows another certificate than service.tls.cert: restart or reload the proxy, or name it with --url")
			}
			return nil
		},
	}, DisableKeepAlives: true}}, nil
}

// inDirectory is the JSON of `aside explain --dir`.
type inDirectory struct {
	Key         string        `json:"key"`
	KeyEncoding string        `json:"keyEncoding,omitempty"`
	Dir         string        `json:"dir"`
	Process     int           `json:"process,omitempty"`
	Running     bool          `json:"running"`
	File        string        `json:"file"`    // where a record of the key stands once it has one
	Records     []keptRecord  `json:"records"` // one for each database
	Problems    []ops.Problem `json:"problems"`
}

type keptRecord struct {
	recordJSON

	By      string `json:"by,omitempty"` // the client that made it, and which of its operations it was
	Number  int64  `json:"number,omitempty"`
	Holds   string `json:"holds,omitempty"` // "value" or "absence"
	Meaning string `json:"meaning"`         // what becomes of it
}

// directory explains what a directory has of the key.
func (c *explainCmd) directory(e *env) error {
	now := time.Now()
	out := inDirectory{Dir: c.Dir, File: fallback.FileOf(0, c.Key), Records: []keptRecord{}, Problems: []ops.Problem{}}
	out.Key, out.KeyEncoding = asText(c.Key)
	show := inspectCmd{}
	if c.Value {
		show.Key = &c.Key
	}
	var values []string
	found, err := ops.Read(c.Dir, func(r ops.Record) error {
		if r.Key != c.Key {
			return nil
		}
		value, _, what := wire.Unpack(r.Value)
		l := listed{Record: r, bytes: len(r.Value)}
		l.Value = value
		k := keptRecord{recordJSON: show.record(&l, now), Meaning: meaningOf(&r, now)}
		if s, ok := stamp.Parse(r.Stamp); ok {
			k.By, k.Number = s.Client, s.Number
		}
		switch {
		case r.Op == fallback.OpDel:
		case r.Op == fallback.OpOperations:
			k.Holds = "operations"
		case what == wire.Value:
			k.Holds = "value"
		case what == wire.Absence:
			k.Holds, k.Value = "absence", nil
		default:
			k.Holds = "unreadable"
		}
		out.Records, values = append(out.Records, k), append(values, value)
		return nil
	})
	if err != nil {
		return err
	}
	out.Process, out.Running = found.Holder, found.Running
	digest := path.Base(out.File)
	digest = strings.TrimSuffix(digest, path.Ext(digest))
	others := 0
	for _, p := range found.Problems {
		if strings.Contains(p.File, digest) || strings.Contains(p.Detail, digest) {
			out.Problems = append(out.Problems, p)
		} else if p.Kind.MayMiss() {
			others++
		}
	}
	if c.JSON {
		if err := e.printJSON(out); err != nil {
			return err
		}
	} else {
		c.text(e, &out, values, &found)
	}
	if others > 0 {
		fmt.Fprintf(e.stderr, "aside: %s in this directory, which may hide a record of this key, too: see aside verify %s\n", count(others, "problem"), c.Dir)
	}
	if len(out.Records) == 0 && len(out.Problems) == 0 {
		fmt.Fprintf(e.stderr, "aside: nothing is known of %s\n", strconv.Quote(c.Key))
		return errFound
	}
	return nil
}

func (c *explainCmd) text(e *env, out *inDirectory, values []string, found *ops.Findings) {
	e.printf("key         %s\n", strconv.Quote(c.Key))
	e.printf("directory   %s (process: %s)\n", c.Dir, holder(found))
	for i := range out.Records {
		r := &out.Records[i]
		e.printf("\nrecord      of database %d: %s\n", r.DB, r.Op)
		e.printf("means       %s\n", r.Meaning)
		e.printf("written     %s\n", moment(r.Written))
		if r.By != "" {
			e.printf("by          %s, its operation %d\n", r.By, r.Number)
		}
		if r.Holds != "" {
			e.printf("holds       %s, %s\n", r.Holds, byteCount(int64(r.Bytes)))
			if r.Holds == "operations" {
				e.printf("expires     -\n")
			} else if r.Expires.Sub(r.Written) < 100*365*24*time.Hour {
				e.printf("expires     %s\n", moment(r.Expires))
			} else {
				e.printf("expires     never\n")
			}
		}
		e.printf("stands in   %s\n", r.File)
		if c.Value && (r.Holds == "value" || r.Holds == "operations") {
			e.printf("value\n%s\n", plain(values[i]))
		}
	}
	for _, p := range out.Problems {
		e.printf("\nproblem     %s: %s (%s)\nto do       %s\n", p.File, p.Detail, p.Kind, p.Kind.Remedy())
	}
}

// meaningOf is what becomes of a record.
func meaningOf(r *ops.Record, now time.Time) string {
	switch {
	case r.Op == fallback.OpDel:
		return "it waits for Redis: the key is deleted there, unless somebody has written it later"
	case r.Op == fallback.OpSet && r.Expired(now):
		return "it waits for Redis, and has expired: the key is deleted there, unless somebody has written it later, so that what it replaced does not come back"
	case r.Op == fallback.OpOperations:
		return "they wait for Redis: each is done there once, whatever the key holds, unless somebody has set or deleted it later"
	case r.Op == fallback.OpSet:
		return "it waits for Redis: the value is stored there, unless somebody has written the key later"
	case r.Expired(now):
		return "a loaded value that has expired: nothing becomes of it"
	}
	return "a loaded value: it is read while Redis is away, and stored there only if the key holds nothing and the server is the same"
}
