package express_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/internal/redistest"
)

// phase is what Redis is like: well, being killed, away, coming back, and back. In between, an
// answer may be of either.
type phase int

const (
	well phase = iota
	away
	back
	between
	phases
)

// act is what visitors do, and what has become of it. Guarded by visitors.mu.
type act struct {
	done, failed [phases]int
	error        [phases]string // the latest
}

// sum is of a counter: at least done, and at most what may have been done, too.
type sum struct{ done, unknown int }

// visitors use the shop, and remember what it has told them.
type visitors struct {
	t     *testing.T
	base  string
	names []string // of acts, in the order of the table
	stop  chan struct{}
	all   sync.WaitGroup

	mu    sync.Mutex // guards what follows
	now   phase
	acts  map[string]*act
	sums  map[string]*sum            // counters, by what is asked of Redis for them
	said  map[string]map[string]bool // members by key of Redis: true, if acknowledged; false, if they may be there
	saved map[string][2]int          // profiles by user: the latest that was acknowledged, and the latest that was sent
}

const shoppers = 8

// open sends visitors into the shop.
func open(t *testing.T, base string) *visitors {
	t.Helper()
	v := &visitors{
		t: t, base: base, stop: make(chan struct{}), now: between, acts: make(map[string]*act), sums: make(map[string]*sum),
		said: make(map[string]map[string]bool), saved: make(map[string][2]int),
	}
	for _, name := range []string{
		"who am I (session)", "save my profile (SET)", "my profile (GET)", "a product (GET, SET EX)", "change a product (DEL)", "log in (Lua, SET EX)",
		"count a view (INCR)", "into the cart (HINCRBY)", "add a tag (SADD)", "give stars (ZINCRBY)", "order (Redlock, MULTI)", "send a mail (BullMQ)", "say something (LPUSH, PUBLISH)",
	} {
		v.names = append(v.names, name)
		v.acts[name] = new(act)
	}
	var ready sync.WaitGroup
	for i := range shoppers {
		ready.Add(1)
		v.all.Go(func() { v.shop(i, ready.Done) }) // ends with leave
	}
	ready.Wait()
	return v
}

// visit lets the visitors go on for so long, and until they have done everything once, and counts what
// they do as of a phase.
func (v *visitors) visit(howLong time.Duration, p phase) {
	v.t.Helper()
	v.enter(p)
	time.Sleep(howLong) // it is how long it takes, and waits for nothing
	require.Eventually(v.t, func() bool {
		v.mu.Lock()
		defer v.mu.Unlock()
		for _, a := range v.acts {
			if a.done[p]+a.failed[p] == 0 {
				return false
			}
		}
		return true
	}, patience, 20*time.Millisecond, "something was not tried")
	v.enter(between)
}

func (v *visitors) enter(p phase) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.now = p
}

// leave ends them.
func (v *visitors) leave() {
	close(v.stop)
	v.all.Wait()
}

// goOn are the acts that an outage must not disturb, of those who have logged in before it: what is read and written
// whole, and what is counted if the proxy may count it by itself.
func (v *visitors) goOn(answers string) []string {
	if answers == "local" {
		return append(slices.Clone(v.names[:5]), v.names[6:9]...)
	}
	return v.names[:5]
}

// visitor is one of them, with its cookie.
type visitor struct {
	v    *visitors
	http http.Client
}

// does asks the shop for something, and reports whether it was done; known is false if it may have
// been done though it was not acknowledged.
func (c *visitor) does(name, method, path string, body any) (done, known bool) {
	return c.doesSince(c.v.phase(), name, method, path, body)
}

func (v *visitors) phase() phase {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.now
}

// doesSince is does, for what depends on something that was begun in a phase.
func (c *visitor) doesSince(began phase, name, method, path string, body any) (done, known bool) {
	status, text := c.ask(method, path, body)
	done = status/100 == 2
	// What the proxy has not passed on has changed nothing. An act of several steps may have done some.
	known = done || strings.Contains(text, "ASIDEDEGRADED")
	c.v.mu.Lock()
	defer c.v.mu.Unlock()
	a, p := c.v.acts[name], c.v.now
	if p != began {
		p = between
	}
	if done {
		a.done[p]++
	} else {
		a.failed[p]++
		a.error[p] = text
	}
	return done, known
}

func (c *visitor) ask(method, path string, body any) (status int, text string) {
	var content []byte
	if body != nil {
		content, _ = json.Marshal(body) // a map of text and numbers
	}
	request, err := http.NewRequest(method, c.v.base+path, bytes.NewReader(content))
	if err != nil {
		panic(err)
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := c.http.Do(request)
	if err != nil {
		return 0, err.Error()
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, err.Error()
	}
	return response.StatusCode, string(answer)
}

// shop is what one of them does until the end.
func (v *visitors) shop(n int, ready func()) {
	user := fmt.Sprintf("user%d", n)
	jar, _ := cookiejar.New(nil) // has no error
	c := &visitor{v: v, http: http.Client{Jar: jar, Timeout: patience}}
	stranger := &visitor{v: v, http: http.Client{Timeout: patience}}
	loggedIn, _ := c.does("log in (Lua, SET EX)", "POST", "/login", map[string]any{"user": user})
	ready()
	if !loggedIn {
		v.t.Errorf("%s cannot log in", user)
		return
	}
	product := fmt.Sprintf("/products/%d", n)
	for i := 1; ; i++ {
		select {
		case <-v.stop:
			return
		default:
		}
		c.does("who am I (session)", "GET", "/me", nil)

		saving := v.phase()
		v.save(user, i, false)
		if done, _ := c.does("save my profile (SET)", "PUT", "/me", map[string]any{"rev": i}); done {
			v.save(user, i, true)
		}
		// What was saved just before Redis died, and could not be read back, is not known while it is away.
		c.doesSince(saving, "my profile (GET)", "GET", "/me/profile", nil)
		c.does("a product (GET, SET EX)", "GET", product, nil)
		c.does("change a product (DEL)", "PUT", product, map[string]any{"name": user, "rev": i})
		if i%4 == 0 {
			stranger.does("log in (Lua, SET EX)", "POST", "/login", map[string]any{"user": user})
		}

		done, known := c.does("count a view (INCR)", "POST", "/products/all/views", nil)
		v.add("GET views:all", done, known)
		done, known = c.does("give stars (ZINCRBY)", "POST", product+"/stars", map[string]any{"stars": 1})
		v.add(fmt.Sprintf("ZSCORE stars %d", n), done, known)

		tag := fmt.Sprintf("tag%d", i)
		v.tell(fmt.Sprintf("tags:%d", n), tag, false)
		if done, _ := c.does("add a tag (SADD)", "POST", product+"/tags", map[string]any{"tag": tag}); done {
			v.tell(fmt.Sprintf("tags:%d", n), tag, true)
		}
		if i%4 == 0 {
			mail := fmt.Sprintf("%s, mail %d", user, i)
			v.tell("mails:sent", mail, false)
			if done, _ := c.does("send a mail (BullMQ)", "POST", "/mails", map[string]any{"text": mail}); done {
				v.tell("mails:sent", mail, true)
			}
			c.does("say something (LPUSH, PUBLISH)", "POST", "/messages", map[string]any{"text": "hello"})

		}
		if n%2 == 0 { // an order empties the cart, so those who order do not count
			done, known = c.does("into the cart (HINCRBY)", "POST", "/cart", map[string]any{"product": "cup"})
			v.add("HGET cart:"+user+" cup", done, known)
		} else {
			order := fmt.Sprintf("%s-%d", user, i)
			v.tell("orders:"+user, order, false)
			if done, _ := c.does("order (Redlock, MULTI)", "POST", "/orders", map[string]any{"id": order}); done {
				v.tell("orders:"+user, order, true)
			}
		}
	}
}

func (v *visitors) save(user string, rev int, acknowledged bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	s := v.saved[user]
	if s[1] = rev; acknowledged {
		s[0] = rev
	}
	v.saved[user] = s
}

func (v *visitors) add(counter string, done, known bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	s := v.sums[counter]
	if s == nil {
		s = new(sum)
		v.sums[counter] = s
	}
	switch {
	case done:
		s.done++
	case !known:
		s.unknown++
	}
}

func (v *visitors) tell(key, member string, acknowledged bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.said[key] == nil {
		v.said[key] = make(map[string]bool)
	}
	v.said[key][member] = acknowledged
}

// check compares Redis with what the visitors were told: nothing acknowledged is missing, and nothing
// was done twice.
func (v *visitors) check(t *testing.T, server *redistest.Server) {
	t.Helper()
	for counter, of := range v.sums {
		got, err := strconv.Atoi(fmt.Sprint(server.Do(words(counter)...)))
		require.NoError(t, err, counter)
		require.GreaterOrEqual(t, got, of.done, "%s: acknowledged counts are lost", counter)
		require.LessOrEqual(t, got, of.done+of.unknown, "%s: something was counted twice", counter)
	}
	orders := 0
	for key, members := range v.said {
		has := func() []string { return texts(server.Do("SMEMBERS", key)) }
		if strings.HasPrefix(key, "orders:") {
			has = func() (ids []string) {
				for _, text := range texts(server.Do("LRANGE", key, 0, -1)) {
					var order struct {
						ID string `json:"id"`
					}
					require.NoError(t, json.Unmarshal([]byte(text), &order))
					ids = append(ids, order.ID)
				}
				return ids
			}
			orders += len(has())
		}
		require.Eventually(t, func() bool { // the worker has yet to send some of the mails
			got := has()
			for member, acknowledged := range members {
				if acknowledged && !slices.Contains(got, member) {
					return false
				}
			}
			return true
		}, patience, 50*time.Millisecond, "%s: something acknowledged is lost", key)
		got := has()
		slices.Sort(got)
		require.Len(t, slices.Compact(slices.Clone(got)), len(got), "%s: something was done twice: %v", key, got)
		for _, member := range got {
			require.Contains(t, members, member, key)
		}
	}
	require.Equal(t, strconv.Itoa(orders), fmt.Sprint(server.Do("GET", "orders")), "a transaction was done in part")
	for user, revs := range v.saved {
		var profile struct {
			Rev int `json:"rev"`
		}
		require.NoError(t, json.Unmarshal([]byte(fmt.Sprint(server.Do("GET", "profile:"+user))), &profile), user)
		require.GreaterOrEqual(t, profile.Rev, revs[0], "%s: the profile that was acknowledged is lost", user)
		require.LessOrEqual(t, profile.Rev, revs[1], user)
	}
}

func words(command string) (args []any) {
	for word := range strings.FieldsSeq(command) {
		args = append(args, word)
	}
	return args
}

func texts(reply any) (all []string) {
	list, _ := reply.([]any)
	for _, element := range list {
		all = append(all, fmt.Sprint(element))
	}
	return all
}

// table is what has become of what they did.
func (v *visitors) table() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-32s %8s %8s %22s %8s\n", "", "well", "away", "refused", "back")
	for _, name := range v.names {
		a := v.acts[name]
		refused := ""
		if n := a.failed[away]; n > 0 {
			refused = fmt.Sprintf("%d %s", n, word.FindString(a.error[away]))
		}
		fmt.Fprintf(&b, "%-32s %8d %8d %22s %8d\n", name, a.done[well], a.done[away], refused, a.done[back])
	}
	return b.String()
}

var word = regexp.MustCompile(`\b[A-Z]{4,}\b`)
