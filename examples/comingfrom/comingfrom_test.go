package comingfrom

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/redistest"
)

var ada = User{ID: 42, Name: "Ada"}

func TestRueidisaside(t *testing.T) {
	server := redistest.Start(t)
	var db database
	before, err := newWithRueidisaside(server.Addr(), &db)
	require.NoError(t, err)
	defer before.client.Close()
	user, err := before.user(t.Context())
	require.NoError(t, err)
	require.Equal(t, &ada, user)

	after, err := newLikeRueidisaside(server.Addr(), &db)
	require.NoError(t, err)
	defer after.client.Close()
	again, err := after.user(t.Context())
	require.NoError(t, err)
	require.Equal(t, ada, again)
	require.EqualValues(t, 1, db.queries.Load(), "it reads what the other has stored")

	require.NoError(t, after.changed(t.Context()))
	_, err = before.user(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 2, db.queries.Load(), "and its Del reaches the other")
	require.NoError(t, before.changed(t.Context()))
	require.Eventually(t, func() bool { // the push about it
		_, err = after.user(t.Context())
		return err == nil && db.queries.Load() == 3
	}, 10*time.Second, time.Millisecond)
}

func TestGoRedisCache(t *testing.T) {
	server := redistest.Start(t)
	var db database
	before := newWithGoRedisCache(server.Addr(), &db)
	after, err := newLikeGoRedisCache(server.Addr(), &db)
	require.NoError(t, err)
	defer after.users.Client().Close()
	for _, users := range []interface {
		user(ctx context.Context) (User, error)
		set(ctx context.Context, user User) error
		peek(ctx context.Context) (User, bool, error)
	}{before, after} {
		server.Do("DEL", "user:42") // the bytes of the other
		user, err := users.user(t.Context())
		require.NoError(t, err)
		require.Equal(t, ada, user)
		require.NoError(t, users.set(t.Context(), User{42, "Grace"}))
		user, found, err := users.peek(t.Context())
		require.NoError(t, err)
		require.True(t, found)
		require.Equal(t, User{42, "Grace"}, user)
	}
	require.EqualValues(t, 2, db.queries.Load())
}

func TestSturdyc(t *testing.T) {
	server := redistest.Start(t)
	client, err := aside.New(aside.Options{Redis: rueidis.ClientOption{InitAddress: []string{server.Addr()}}})
	require.NoError(t, err)
	defer client.Close()
	var dbBefore, dbAfter database
	before, after := newWithSturdyc(&dbBefore), newLikeSturdyc(client, &dbAfter)

	user, err := before.user(t.Context())
	require.NoError(t, err)
	require.Equal(t, ada, user)
	byID, err := before.many(t.Context())
	require.NoError(t, err)
	require.Equal(t, map[string]User{"42": ada, "43": {43, "Ada"}}, byID)

	user, err = after.user(t.Context())
	require.NoError(t, err)
	require.Equal(t, ada, user)
	many, err := after.many(t.Context())
	require.NoError(t, err)
	require.Equal(t, map[int]User{42: ada, 43: {43, "Ada"}}, many)
	require.EqualValues(t, 2, dbAfter.queries.Load())
}

// The page's code is this package's.
func TestThePageShowsThisCode(t *testing.T) {
	page, err := os.ReadFile("../../docs/COMING-FROM.md")
	require.NoError(t, err)
	var code strings.Builder
	files, err := filepath.Glob("*.go")
	require.NoError(t, err)
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		code.Write(text)
	}
	var shown []string
	for _, block := range strings.Split(string(page), "```go\n")[1:] {
		block, _, ok := strings.Cut(block, "```")
		require.True(t, ok)
		shown = append(shown, block)
	}
	regions := regexp.MustCompile(`(?ms)^\t// (?:before|after): [^\n]*\n(.*?)^\t// end$`).FindAllStringSubmatch(code.String(), -1)
	require.Len(t, shown, len(regions))
	for _, region := range regions {
		text := strings.TrimPrefix(strings.ReplaceAll(region[1], "\n\t", "\n"), "\t")
		require.Contains(t, shown, text)
	}
}
