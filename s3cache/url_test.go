package s3cache_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/modfetch/modfetch/s3cache"
)

func TestOpen(t *testing.T) {
	for _, test := range []struct {
		url    string
		env    string // a setting
		want   string // URL of an object
		region string
	}{
		{"s3://bucket?region=eu-west-1", "", "https://bucket.s3.dualstack.eu-west-1.amazonaws.com/a/b", "eu-west-1"},
		{"s3://bucket/?region=eu-west-1&style=path", "", "https://s3.dualstack.eu-west-1.amazonaws.com/bucket/a/b", "eu-west-1"},
		{"s3://bucket/some/prefix/", "AWS_REGION=eu-west-1", "https://bucket.s3.dualstack.eu-west-1.amazonaws.com/some/prefix/a/b", "eu-west-1"},
		{"s3://bucket", "AWS_DEFAULT_REGION=eu-west-1", "https://bucket.s3.dualstack.eu-west-1.amazonaws.com/a/b", "eu-west-1"},
		{"s3://bucket?region=eu-west-2", "AWS_REGION=eu-west-1", "https://bucket.s3.dualstack.eu-west-2.amazonaws.com/a/b", "eu-west-2"},
		{"s3://bucket/p?endpoint=store.test", "", "https://store.test/bucket/p/a/b", "us-east-1"},
		{"s3://bucket/p?endpoint=https://store.test:9000", "", "https://store.test:9000/bucket/p/a/b", "us-east-1"},
		{"s3://bucket/p?endpoint=http://127.0.0.1:9000", "", "http://127.0.0.1:9000/bucket/p/a/b", "us-east-1"},
		{"s3://bucket/p?endpoint=store.test&region=auto&style=virtual", "", "https://bucket.store.test/p/a/b", "auto"},
		{"s3://bucket/p?endpoint=oss-cn-hangzhou.aliyuncs.com&region=oss-cn-hangzhou", "", "https://bucket.oss-cn-hangzhou.aliyuncs.com/p/a/b", "oss-cn-hangzhou"},
	} {
		t.Run(test.url+" "+test.env, func(t *testing.T) {
			setCredentials(t)
			if name, value, ok := strings.Cut(test.env, "="); ok {
				t.Setenv(name, value)
			}
			c, err := s3cache.Open(test.url)
			if err != nil {
				t.Fatal(err)
			}
			u, err := c.Signed(t.Context(), "a/b")
			if err != nil {
				t.Fatal(err)
			}
			if got := u.Scheme + "://" + u.Host + u.Path; got != test.want {
				t.Errorf("an object is at %s, want %s", got, test.want)
			}
			if got := u.Query().Get("X-Amz-Credential"); !strings.HasPrefix(got, accessKey+"/") || !strings.HasSuffix(got, "/"+test.region+"/s3/aws4_request") {
				t.Errorf("signed with %s, want region %s", got, test.region)
			}
		})
	}
}

func TestOpenRefuses(t *testing.T) {
	setCredentials(t)
	for _, rawURL := range []string{
		"", "bucket", "s3:", "s3://", "s3:///prefix", "https://bucket/secret", "s3://bucket:80/secret", "s3://bucket/p#secret", "s3://bucket/\x7fsecret",
		"s3://user:secret@bucket/p", "s3://secret@bucket/p", "s3://bucket/p?secret=x", "s3://bucket/p?region=a&region=b", "s3://bucket/p?region=%zzsecret",
		"s3://bucket/p?endpoint=a&endpoint=secret", "s3://bucket/p?style=secret", "s3://bucket/p?endpoint=http://a/secret",
		"s3://bucket/p?endpoint=https://user:secret@host", "s3://bucket/p?endpoint=ftp://secret", "s3://bucket/p?endpoint=http://",
	} {
		c, err := s3cache.Open(rawURL)
		if err == nil || c != nil {
			t.Errorf("%q: %v, %v", rawURL, c, err)
		} else if strings.Contains(err.Error(), "secret") || !strings.HasPrefix(err.Error(), "s3cache: ") {
			t.Errorf("%q: error %v", rawURL, err)
		}
	}
}

// TestCredentials shows where they come from, and that a role's are for AWS alone.
func TestCredentials(t *testing.T) {
	roles := 0
	role := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		roles++
		fmt.Fprint(w, `{"AccessKeyID": "role", "SecretAccessKey": "x", "Token": "x", "Expiration": "2100-01-01T00:00:00Z"}`)
	}))
	defer role.Close()
	file := filepath.Join(t.TempDir(), "credentials")
	const profiles = "[default]\naws_access_key_id = default\naws_secret_access_key = x\n[other]\naws_access_key_id = other\naws_secret_access_key = x\n"
	if err := os.WriteFile(file, []byte(profiles), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, url string
		env       []string
		want      string // access key
	}{
		{"environment", "s3://bucket?region=a-b-1", []string{"AWS_ACCESS_KEY_ID=env", "AWS_SECRET_ACCESS_KEY=x", "AWS_SHARED_CREDENTIALS_FILE=" + file}, "env"},
		{"file", "s3://bucket?region=a-b-1", []string{"AWS_SHARED_CREDENTIALS_FILE=" + file}, "default"},
		{"profile", "s3://bucket?region=a-b-1", []string{"AWS_SHARED_CREDENTIALS_FILE=" + file, "AWS_PROFILE=other"}, "other"},
		{"file, elsewhere", "s3://bucket?endpoint=store.test", []string{"AWS_SHARED_CREDENTIALS_FILE=" + file}, "default"},
		{"role", "s3://bucket?region=a-b-1", nil, "role"},
		{"role, elsewhere", "s3://bucket?endpoint=store.test", nil, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			hideCredentials(t)
			t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", role.URL)
			for _, setting := range test.env {
				name, value, _ := strings.Cut(setting, "=")
				t.Setenv(name, value)
			}
			roles = 0
			c, err := s3cache.Open(test.url)
			if err != nil {
				t.Fatal(err)
			}
			got := ""
			if u, err := c.Signed(t.Context(), "a/b"); err == nil {
				got, _, _ = strings.Cut(u.Query().Get("X-Amz-Credential"), "/")
			} else if test.want != "" {
				t.Fatal(err)
			}
			if got != test.want || (roles > 0) != (test.want == "role") {
				t.Errorf("signed by %q, want %q; %d requests for a role", got, test.want, roles)
			}
		})
	}
}

func TestAnonymous(t *testing.T) {
	s := newStore()
	s.put(name, "public")
	s.before = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("Authorization") != "" {
			t.Error("a request is signed")
		}
		return false
	}
	server := httptest.NewServer(s)
	defer server.Close()
	hideCredentials(t)
	c, err := s3cache.Open("s3://" + bucket + "/prefix?endpoint=" + server.URL)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := stored(t, c, name); got != "public" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}
