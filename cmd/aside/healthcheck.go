package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/redaside/aside/cmd/aside/internal/proxy/config"
)

type healthcheckCmd struct {
	URL     string        `name:"url" placeholder:"URL" help:"Where to ask. By default /healthz of the proxy that the same configuration and environment would start on this machine."`
	Config  string        `name:"config" short:"c" placeholder:"FILE" env:"ASIDE_CONFIG" help:"Configuration file. By default conf.yaml in this directory, if it is there."`
	Timeout time.Duration `name:"timeout" default:"3s" help:"How long an answer may take."`
}

func (h *healthcheckCmd) Run(e *env) error {
	url := h.URL
	if url == "" {
		// Whether it may serve strangers does not matter here: a flag may have permitted it.
		c, _, err := loadConfig(h.Config, map[string]string{"service.insecure": "true"})
		if err != nil {
			return err
		}
		if url, err = healthURL(c.Service); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(e.ctx, h.Timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return usageError{fmt.Errorf("--url: %w", err)}
	}
	// The certificate is made out to a name, and we ask at an address; nothing secret is said, and
	// nothing is believed but "alive".
	client := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("the proxy does not answer: %w", err)
	}
	defer func() { _ = response.Body.Close() }() // was only read from
	body, _ := io.ReadAll(io.LimitReader(response.Body, 1000))
	text := strings.TrimSpace(string(body))
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s says %s: %s", url, response.Status, text)
	}
	e.printf("%s\n", text)
	return nil
}

func healthURL(s config.Service) (string, error) {
	if s.Port <= 0 {
		return "", usageError{errors.New("service.port is no port to ask at: name one with --url, or give the proxy an HTTP port")}
	}
	host := s.Bind
	if addr, err := netip.ParseAddr(host); err == nil && addr.IsUnspecified() {
		host = "127.0.0.1"
		if addr.Is6() {
			host = "::1"
		}
	}
	scheme := "http"
	if s.TLS.Cert != "" {
		scheme = "https"
	}
	return scheme + "://" + net.JoinHostPort(host, strconv.Itoa(int(s.Port))) + "/healthz", nil
}
