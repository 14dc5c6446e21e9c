package s3cache_test

import (
	"bytes"
	"crypto/md5"
	"crypto/sha256"
	"encoding/xml"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/modfetch/modfetch/s3cache"
)

// A store is as much of an S3 server as a Cache needs, in memory, with one bucket.
type store struct {
	// before may answer a request instead, and says so.
	before func(w http.ResponseWriter, r *http.Request) bool
	end    chan struct{} // closed at the end of a test in a bubble

	mu       sync.Mutex // guards the following
	objects  map[string][]byte
	uploads  map[string]map[int][]byte
	started  int
	requests []string // method, path without the bucket, query keys
}

const bucket = "bucket"

func newStore() *store {
	return &store{objects: make(map[string][]byte), uploads: make(map[string]map[int][]byte)}
}

// cache starts an HTTP server for the store, and opens it.
func (s *store) cache(t *testing.T) *s3cache.Cache {
	t.Helper()
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	return openAt(t, server.URL)
}

const (
	accessKey = "AKIAEXAMPLEEXAMPLE"
	secretKey = "wJalrXUtnFEMIexamplekey"
	token     = "example-session-token"
)

func openAt(t *testing.T, endpoint string) *s3cache.Cache {
	t.Helper()
	setCredentials(t)
	c, err := s3cache.Open("s3://" + bucket + "/prefix?endpoint=" + endpoint)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// setCredentials sets those of tests, and hides all others.
func setCredentials(t *testing.T) {
	t.Helper()
	hideCredentials(t)
	t.Setenv("AWS_ACCESS_KEY_ID", accessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", secretKey)
	t.Setenv("AWS_SESSION_TOKEN", token)
}

func hideCredentials(t *testing.T) {
	t.Helper()
	nowhere := t.TempDir()
	t.Setenv("HOME", nowhere)
	t.Setenv("USERPROFILE", nowhere)
	for _, name := range []string{
		"AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_SECRET_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE",
		"AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_WEB_IDENTITY_TOKEN_FILE",
		"AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
	} {
		t.Setenv(name, "")
	}
}

func (s *store) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	key, ok := strings.CutPrefix(r.URL.Path, "/"+bucket+"/")
	query := r.URL.Query()
	s.mu.Lock()
	s.requests = append(s.requests, strings.TrimSpace(r.Method+" "+key+" "+strings.Join(slices.Sorted(maps.Keys(query)), " ")))
	s.mu.Unlock()
	if s.before != nil && s.before(w, r) {
		return
	}
	if !ok {
		refuse(w, http.StatusNotFound, "NoSuchBucket", "The specified bucket does not exist")
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil || int64(len(body)) != r.ContentLength {
		return // the client has left
	}
	if sum := sha256.Sum256(body); r.Method == http.MethodPut && r.Header.Get("X-Amz-Content-Sha256") != fmt.Sprintf("%x", sum) {
		refuse(w, http.StatusBadRequest, "XAmzContentSHA256Mismatch", "The provided hash does not match what was computed.")
		return
	}
	id := query.Get("uploadId")
	s.mu.Lock()
	if r.Method == http.MethodGet {
		data, ok := s.objects[key]
		s.mu.Unlock()
		if !ok {
			refuse(w, http.StatusNotFound, "NoSuchKey", "The specified key does not exist.")
			return
		}
		w.Header().Set("ETag", etag(data))
		http.ServeContent(w, r, "", time.Unix(1e9, 0), bytes.NewReader(data))
		return
	}
	defer s.mu.Unlock()
	switch upload := s.uploads[id]; {
	case r.Method == http.MethodPost && query.Has("uploads"):
		s.started++
		id = "upload-" + strconv.Itoa(s.started)
		s.uploads[id] = make(map[int][]byte)
		fmt.Fprintf(w, "<InitiateMultipartUploadResult><UploadId>%s</UploadId></InitiateMultipartUploadResult>", id)
	case id != "" && upload == nil:
		refuse(w, http.StatusNotFound, "NoSuchUpload", "The specified multipart upload does not exist.")
	case r.Method == http.MethodPut && id != "":
		n, _ := strconv.Atoi(query.Get("partNumber"))
		upload[n] = body
		w.Header().Set("ETag", etag(body))
	case r.Method == http.MethodPost:
		var list struct {
			Part []struct {
				PartNumber int
				ETag       string
			}
		}
		if err := xml.Unmarshal(body, &list); err != nil {
			refuse(w, http.StatusBadRequest, "MalformedXML", err.Error())
			return
		}
		var all []byte
		for _, p := range list.Part {
			if strings.Trim(p.ETag, `"`) != strings.Trim(etag(upload[p.PartNumber]), `"`) {
				refuse(w, http.StatusBadRequest, "InvalidPart", "One or more of the specified parts could not be found.")
				return
			}
			all = append(all, upload[p.PartNumber]...)
		}
		s.objects[key] = all
		delete(s.uploads, id)
		fmt.Fprintf(w, "<CompleteMultipartUploadResult><Bucket>%s</Bucket><Key>%s</Key></CompleteMultipartUploadResult>", bucket, key)
	case r.Method == http.MethodDelete:
		delete(s.uploads, id)
		w.WriteHeader(http.StatusNoContent)
	case r.Method == http.MethodPut:
		s.objects[key] = body
		w.Header().Set("ETag", etag(body))
	}
}

func etag(data []byte) string { return fmt.Sprintf(`"%x"`, md5.Sum(data)) }

// refuse answers with an error in S3's form.
func refuse(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	fmt.Fprintf(w, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>%s</Code><Message>", code)
	xml.EscapeText(w, []byte(message))
	fmt.Fprint(w, "</Message><RequestId>1</RequestId></Error>")
}

// object returns what is stored under a name.
func (s *store) object(name string) (string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	data, ok := s.objects["prefix/"+name]
	return string(data), ok
}

// put stores without a Cache.
func (s *store) put(name, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.objects["prefix/"+name] = []byte(text)
}

// asked returns the requests that came since it was called last.
func (s *store) asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	asked := s.requests
	s.requests = nil
	return asked
}

func (s *store) unfinished() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.uploads)
}
