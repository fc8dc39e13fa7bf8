package transactions

import (
	"context"
	"testing"

	bolt "go.etcd.io/bbolt"
)

func TestDelComesAfterTheCommit(t *testing.T) {
	t.Run("wrong: Del, then COMMIT", func(t *testing.T) {
		s := newShop(t, "1.00")
		tx := s.begin("2.00")
		s.del()
		s.expect("1.00", "a reader between Del and COMMIT loads what is still there") // and it is cached now
		s.must(tx.Commit())
		s.expect("1.00", "this is what goes wrong: the old price stays until its ttl")
	})
	t.Run("right: COMMIT, then Del", func(t *testing.T) {
		s := newShop(t, "1.00")
		tx := s.begin("2.00")
		s.expect("1.00", "nothing is committed")
		s.must(tx.Commit())
		s.del()
		s.expect("2.00", "a reader after Del has returned gets the new price")
	})
}

func TestALoaderReadsWhatIsCommitted(t *testing.T) {
	t.Run("wrong: it reads in the caller's transaction", func(t *testing.T) {
		s := newShop(t, "1.00")
		tx := s.begin("2.00")
		if got := s.get(func(context.Context, string) (string, error) { return read(tx) }); got != "2.00" {
			t.Errorf("within the transaction the price is %q", got)
		}
		s.must(tx.Rollback())
		s.expect("2.00", "this is what goes wrong: the price that never was is cached")
	})
	t.Run("right: the transaction reads the database, everybody else the cache", func(t *testing.T) {
		s := newShop(t, "1.00")
		tx := s.begin("2.00")
		if got, err := read(tx); got != "2.00" || err != nil {
			t.Errorf("within the transaction the price is %q, %v", got, err)
		}
		s.expect("1.00", "a loader has a transaction of its own")
		s.must(tx.Rollback())
		s.expect("1.00", "nothing has changed")
	})
}

func TestAnInsertIsAChangeToo(t *testing.T) {
	insert := func(s *shop) {
		s.t.Helper()
		s.must(s.db.Update(func(tx *bolt.Tx) error { return tx.Bucket(bucket).Put([]byte(key), []byte("1.00")) }))
	}
	t.Run("wrong: INSERT alone", func(t *testing.T) {
		s := newShop(t, "")
		s.expect("none", "there is no such row yet")
		insert(s)
		s.expect("none", "this is what goes wrong: the absence is remembered for NegativeTTL")
	})
	t.Run("right: INSERT, COMMIT, then Del", func(t *testing.T) {
		s := newShop(t, "")
		s.expect("none", "there is no such row yet")
		insert(s)
		s.del()
		s.expect("1.00", "a reader after Del has returned gets the row")
	})
}

func TestWritersDelAndDoNotSet(t *testing.T) {
	// Two requests change one price; their commits are in one order, what they tell the cache may
	// be in another.
	commit := func(s *shop, price string) {
		s.t.Helper()
		s.must(s.begin(price).Commit())
	}
	t.Run("wrong: each sets what it has committed", func(t *testing.T) {
		s := newShop(t, "1.00")
		commit(s, "2.00")
		commit(s, "3.00")
		s.must(s.prices.Set(t.Context(), ttl, key, "3.00"))
		s.must(s.prices.Set(t.Context(), ttl, key, "2.00")) // the first one was slower
		s.expect("2.00", "this is what goes wrong: the database says 3.00")
	})
	t.Run("right: each deletes", func(t *testing.T) {
		s := newShop(t, "1.00")
		commit(s, "2.00")
		commit(s, "3.00")
		s.del()
		s.del()
		s.expect("3.00", "the next reader loads what the database says")
	})
}

func TestAReplicaThatLagsBringsTheOldRowBack(t *testing.T) {
	// The loader of a service that reads from a replica: an older state of the database.
	replica := func(price string) func(context.Context, string) (string, error) {
		return func(context.Context, string) (string, error) { return price, nil }
	}
	t.Run("wrong: load from a replica that has not caught up", func(t *testing.T) {
		s := newShop(t, "1.00")
		s.must(s.begin("2.00").Commit())
		s.del()
		if got := s.get(replica("1.00")); got != "1.00" {
			t.Errorf("the shop shows %q", got)
		}
		s.expect("1.00", "this is what goes wrong: the replica has caught up, the cache has not")
	})
	t.Run("right: Del again when the replica has caught up", func(t *testing.T) {
		s := newShop(t, "1.00")
		s.must(s.begin("2.00").Commit())
		s.del()
		if got := s.get(replica("1.00")); got != "1.00" {
			t.Errorf("the shop shows %q", got)
		}
		s.del() // after the longest lag, or loaders read from the primary
		s.expect("2.00", "the second Del has emptied the key")
	})
}
