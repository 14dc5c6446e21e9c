package redislock

// WithoutPolling leaves waiters to what Redis tells them.
func (l *Locker) WithoutPolling() { l.poll = 1 << 60 }
