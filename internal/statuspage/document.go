package statuspage

import (
	"crypto/sha256"
	_ "embed" // the pages
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"html"
	"net/http"
	"strings"
)

//go:embed page.html
var pageHTML string

// Document is a page with its style and script in it; Policy allows exactly these. Immutable.
type Document struct{ HTML, Policy, Tag string }

// NewDocument returns a page of this HTML.
func NewDocument(text string) Document {
	sources := func(element string) string {
		var hashes []string
		for rest := text; ; {
			_, after, ok := strings.Cut(rest, "<"+element+">")
			if !ok {
				break
			}
			content, after, ok := strings.Cut(after, "</"+element+">")
			if !ok {
				panic(fmt.Sprintf("the page has a <%s> without an end", element))
			}
			hash := sha256.Sum256([]byte(content))
			hashes = append(hashes, "'sha256-"+base64.StdEncoding.EncodeToString(hash[:])+"'")
			rest = after
		}
		if len(hashes) == 0 {
			return "'none'"
		}
		return strings.Join(hashes, " ")
	}
	sum := sha256.Sum256([]byte(text))
	return Document{
		HTML: text,
		Policy: "default-src 'none'; style-src " + sources("style") + "; script-src " + sources("script") +
			"; connect-src 'self'; img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
		Tag: `"` + hex.EncodeToString(sum[:12]) + `"`,
	}
}

// Head sets the headers that a page has beside its length.
func (d *Document) Head(h http.Header) {
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", d.Policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cache-Control", "no-cache")
}

// Shell is what the status page has around the data. All addresses are relative to the page's own.
type Shell struct {
	What   string // that is not connected: "proxy"
	Events string // where the data comes from as server-sent events; "": it is asked for every second, at Status
	Status string
	Links  []string // to show at the end of the page, and to those who run no scripts: address, text, address, text
}

// Page returns the status page.
func Page(s Shell) Document {
	attribute := func(name, value string) string { return name + `="` + html.EscapeString(value) + `"` }
	var links strings.Builder
	for i := 0; i+1 < len(s.Links); i += 2 {
		links.WriteString(" <a " + attribute("href", s.Links[i]) + ">" + html.EscapeString(s.Links[i+1]) + "</a>")
	}
	data := attribute("data-what", s.What) + " " + attribute("data-events", s.Events) + " " + attribute("data-status", s.Status)
	return NewDocument(strings.NewReplacer("{{links}}", strings.TrimSpace(links.String()), "{{data}}", data).Replace(pageHTML))
}
