package aside

import (
	"context"
	"strings"

	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/internal/script"
	"github.com/redaside/aside/internal/wire"
)

// DelTags removes all values with one of the tags, however many, with one command for each tag: those
// that were loaded or set before DelTags returns are not served any more, as after a [Client.Del] of
// each of their keys, and by the same promises. Loads that began before do not bring them back. While
// Redis is away it is kept and replayed as a Del is. Values that have never had a tag are not
// concerned. The errors are those of Del; with several tags the others are cleared.
func (c *Client) DelTags(ctx context.Context, tags ...string) error {
	return grouper{c}.clear(ctx, "DelTags", tags, wire.TagGroup)
}

// ExpireTags makes all values with one of the tags stale: what has a grace (see [WithGrace]) is served
// while it is refreshed; to a reader without grace it is gone. All else is as for [Client.DelTags].
func (c *Client) ExpireTags(ctx context.Context, tags ...string) error {
	return grouper{c}.clear(ctx, "ExpireTags", tags, wire.ExpiredGroup)
}

func (gr grouper) clear(ctx context.Context, by string, tags []string, groupOf func(string) string) error {
	keys := make([]string, len(tags))
	for i, tag := range tags {
		if err := checkTag(by, tag); err != nil {
			return err
		}
		keys[i] = strings.Clone(groupOf(tag))
	}
	return gr.clearKeys(ctx, keys...)
}

// clearKeys clears the groups with these keys.
func (gr grouper) clearKeys(ctx context.Context, keys ...string) error {
	w := &write{writer: writer(gr), verb: verbClear, script: script.Del, bare: script.DelBare, op: fallback.OpDel}
	return w.do(ctx, keys...)
}
