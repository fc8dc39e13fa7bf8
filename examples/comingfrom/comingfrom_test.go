package comingfrom

import (
	"context"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
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

// Each option, method and setting of a library has a row, or a place in one.
func TestThePageNamesAllThatTheyHave(t *testing.T) {
	page, err := os.ReadFile("../../docs/COMING-FROM.md")
	require.NoError(t, err)
	for section, names := range map[string][]string{
		"rueidisaside and valkeyaside": exported(t, "github.com/redis/rueidis/rueidisaside", "ClientOption"),
		"go-redis/cache":               exported(t, "github.com/go-redis/cache/v9", "Options", "Item"),
		"sturdyc":                      exported(t, "github.com/viccon/sturdyc"),
		"FusionCache":                  fusionCache,
	} {
		_, rows, found := strings.Cut(string(page), "\n## "+section+"\n")
		require.True(t, found, section)
		rows, _, _ = strings.Cut(rows, "\n## ")
		require.NotEmpty(t, names, section)
		for _, name := range names {
			if !regexp.MustCompile(`\b` + name + `\b`).MatchString(rows) {
				t.Errorf("%s: %s has no place in the page", section, name)
			}
		}
	}
}

// fusionCache is what an entry of FusionCache (2.x) may be given, and the cache, but for the levels of its
// log lines and names that stand in the page with a common end.
var fusionCache = strings.Fields(`
	Duration MemoryCacheDuration DistributedCacheDuration LockTimeout JitterMaxDuration Size Priority
	IsFailSafeEnabled FailSafeMaxDuration FailSafeThrottleDuration DistributedCacheFailSafeMaxDuration
	FactorySoftTimeout FactoryHardTimeout AllowTimedOutFactoryBackgroundCompletion EagerRefreshThreshold
	DistributedCacheSoftTimeout DistributedCacheHardTimeout AllowBackgroundDistributedCacheOperations
	ReThrowDistributedCacheExceptions ReThrowSerializationExceptions ReThrowBackplaneExceptions
	SkipBackplaneNotifications AllowBackgroundBackplaneOperations SkipDistributedCacheRead SkipDistributedCacheWrite
	SkipDistributedCacheReadWhenStale SkipMemoryCacheRead SkipMemoryCacheWrite EnableAutoClone
	CacheName CacheKeyPrefix DefaultEntryOptions KeyDependentEntryOptions TagsDefaultEntryOptions
	IgnoreIncomingBackplaneNotifications SkipAutoCloneForImmutableObjects EnableAutoRecovery AutoRecoveryMaxItems
	AutoRecoveryMaxRetryCount AutoRecoveryDelay DisableTagging EnableSyncEventHandlersExecution
	GetOrSet TryGet GetOrDefault Set Remove Expire RemoveByTag Clear`)

// exported returns the options of a package, the methods of its client, and the fields of some of its structs.
func exported(t *testing.T, path string, structs ...string) (names []string) {
	t.Helper()
	dir, err := exec.Command("go", "list", "-f", "{{.Dir}}", path).Output()
	require.NoError(t, err)
	files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(dir)), "*.go"))
	require.NoError(t, err)
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		require.NoError(t, err)
		for _, decl := range parsed.Decls {
			switch d := decl.(type) {
			case *ast.FuncDecl:
				if d.Name.IsExported() && (strings.HasPrefix(d.Name.Name, "With") || receives(d, "Client", "Cache", "CacheAsideClient", "TypedCacheAsideClient")) {
					names = append(names, d.Name.Name)
				}
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					names = append(names, fields(spec, structs)...)
				}
			}
		}
	}
	return names
}

// receives reports whether fn is a method of one of types.
func receives(fn *ast.FuncDecl, types ...string) bool {
	if fn.Recv == nil {
		return false
	}
	of := fn.Recv.List[0].Type
	if pointer, ok := of.(*ast.StarExpr); ok {
		of = pointer.X
	}
	if generic, ok := of.(*ast.IndexExpr); ok {
		of = generic.X
	}
	name, ok := of.(*ast.Ident)
	return ok && slices.Contains(types, name.Name)
}

// fields returns the exported fields of spec, if that is one of structs.
func fields(spec ast.Spec, structs []string) (names []string) {
	named, ok := spec.(*ast.TypeSpec)
	if !ok || !slices.Contains(structs, named.Name.Name) {
		return nil
	}
	for _, field := range named.Type.(*ast.StructType).Fields.List {
		for _, name := range field.Names {
			if name.IsExported() {
				names = append(names, name.Name)
			}
		}
	}
	return names
}
