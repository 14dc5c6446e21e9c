package redislock_test

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

const lease = 2 * time.Second

func TestLeaseIsRenewed(t *testing.T) {
	t.Parallel()
	url, prefix := testRedis(t), newPrefix(t)
	c := client(t, url)
	unlock := lock(t, open(t, url, prefix))
	if left := c.PTTL(t.Context(), prefix+"held").Val(); left <= 0 || left > lease {
		t.Errorf("a lease that has just begun lasts for %v", left)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*lease)
	defer cancel()
	if _, err := open(t, url, prefix).Lock(ctx, "held"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v: the lock was to be had while it was held", err)
	}
	if err := unlock(); err != nil {
		t.Error(err)
	}
}

// TestKilledHolder kills a process with kill -9.
func TestKilledHolder(t *testing.T) {
	t.Parallel()
	url, prefix := testRedis(t), newPrefix(t)
	c, l := client(t, url), open(t, url, prefix)
	holder := exec.Command(os.Args[0])
	holder.Env = append(os.Environ(), "REDISLOCK_HOLD="+url, "REDISLOCK_PREFIX="+prefix)
	out, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := holder.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	defer holder.Wait()
	defer holder.Process.Kill()
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "held <nil>\n" {
		t.Fatalf("the holder says %q, %v", line, err)
	}
	before := c.PTTL(t.Context(), prefix+"held").Val()
	eventually(t, "the holder renews its lease", func() bool {
		now := c.PTTL(t.Context(), prefix+"held").Val()
		defer func() { before = now }()
		return now > before
	})
	holder.Process.Kill()
	killed := time.Now()
	if left := c.PTTL(t.Context(), prefix+"held").Val(); left <= 0 || left > lease {
		t.Errorf("the lock of a killed process lasts for %v", left)
	}
	if err := lock(t, l)(); err != nil {
		t.Error(err)
	}
	t.Logf("locked again %v after the kill", time.Since(killed).Round(time.Millisecond))
}

func TestLostLease(t *testing.T) {
	url := testRedis(t)
	t.Run("to somebody else", func(t *testing.T) {
		t.Parallel()
		prefix := newPrefix(t)
		c := client(t, url)
		unlock := lock(t, open(t, url, prefix))
		c.Set(t.Context(), prefix+"held", "somebody else's token", lease)
		// Whose lock it is not any longer does not prolong it.
		eventually(t, "somebody else's lease ends", func() bool { return c.Exists(t.Context(), prefix+"held").Val() == 0 })
		c.Set(t.Context(), prefix+"held", "somebody else's token", time.Minute)
		if err := unlock(); err == nil {
			t.Error("a lost lock was unlocked without an error")
		}
		if got := c.Get(t.Context(), prefix+"held").Val(); got != "somebody else's token" {
			t.Errorf("somebody else's lock is now %q", got)
		}
		c.Del(t.Context(), prefix+"held")
	})
	t.Run("just before it is unlocked", func(t *testing.T) {
		t.Parallel()
		prefix := newPrefix(t)
		c := client(t, url)
		unlock := lock(t, open(t, url, prefix))
		c.Set(t.Context(), prefix+"held", "somebody else's token", time.Minute)
		if err := unlock(); err == nil {
			t.Error("a lost lock was unlocked without an error")
		}
		if got := c.Get(t.Context(), prefix+"held").Val(); got != "somebody else's token" {
			t.Errorf("somebody else's lock is now %q", got)
		}
		c.Del(t.Context(), prefix+"held")
	})
	t.Run("and taken again", func(t *testing.T) {
		t.Parallel()
		prefix := newPrefix(t)
		c, l := client(t, url), open(t, url, prefix)
		lost := lock(t, l)
		c.Del(t.Context(), prefix+"held")
		unlock := lock(t, l)
		for range 2 { // unlocked once more than allowed
			if err := lost(); err == nil {
				t.Error("a lost lock was unlocked without an error")
			}
		}
		if err := unlock(); err != nil {
			t.Errorf("the lock of the next was unlocked by the one before: %v", err)
		}
	})
}

func TestLostLeaseIsNotRenewed(t *testing.T) {
	url, prefix := testRedis(t), newPrefix(t)
	c := client(t, url)
	unlock := lock(t, open(t, url, prefix))
	token := c.Get(t.Context(), prefix+"held").Val()
	c.Del(t.Context(), prefix+"held")
	eventually(t, "renewal has ended", func() bool { return !renewing() })
	// As if it had never been lost; but it has been, and it is known.
	c.Set(t.Context(), prefix+"held", token, time.Minute)
	if err := unlock(); err == nil {
		t.Error("a lock that was lost for a time was unlocked without an error")
	}
	c.Del(t.Context(), prefix+"held")
}

// TestRenewalFailsOnce has Redis leave one renewal without an answer, and refuse to unlock.
func TestRenewalFailsOnce(t *testing.T) {
	var mu sync.Mutex
	var renewals int
	f := newFake(t, func(command []string) (string, bool) {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case command[0] == "set":
			return "+OK\r\n", true
		case command[0] == "evalsha" && command[5] == "2000": // milliseconds
			renewals++
			return ":1\r\n", renewals > 1
		}
		return "-LOADING who:secret\r\n", true
	})
	l := openWith(t, f.url, nil)
	unlock := lock(t, l)
	eventually(t, "renewed again", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return renewals > 2
	})
	err := unlock()
	if err == nil || !strings.Contains(err.Error(), "LOADING") || strings.Contains(err.Error(), "secret") {
		t.Errorf("error %v", err)
	}
}

func TestUnlockWhileRedisHangs(t *testing.T) {
	f := newFake(t, func(command []string) (string, bool) {
		if command[0] == "set" {
			return "+OK\r\n", true
		}
		return "-ERR\r\n", command[0] != "evalsha"
	})
	l := openWith(t, f.url, nil)
	first, second := lock(t, l), lock(t, l)
	if err := first(); err == nil {
		t.Error("unlocked by a Redis that hangs")
	}
	if err := second(); err == nil || !strings.Contains(err.Error(), "no answer lately") {
		t.Errorf("error %v: asked again what is known to hang", err)
	}
}
