package s3cache

import (
	"cmp"
	"errors"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// Open returns a Cache for a URL such as
//
//	s3://bucket/prefix?region=eu-west-1
//	s3://bucket/prefix?endpoint=oss-cn-hangzhou.aliyuncs.com&region=oss-cn-hangzhou
//	s3://bucket/prefix?endpoint=cos.ap-guangzhou.myqcloud.com&region=ap-guangzhou&style=virtual
//	s3://bucket/prefix?endpoint=http://127.0.0.1:9000
//
// The endpoint is the store's host, and port if need be, reached over https unless it begins with http://; without one it is
// AWS. The region is otherwise that of AWS_REGION or AWS_DEFAULT_REGION, or else what AWS says of the bucket, or us-east-1
// with an endpoint. The style is "virtual" if the bucket is to be part of the host, "path" if of the path; without one it is
// what AWS and Alibaba Cloud need, and path for all others.
//
// Credentials are never in the URL. They are those of AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or of
// AWS's files and AWS_PROFILE, or, without an endpoint, of the machine's or container's role. If there are none, requests
// are anonymous.
//
// Open asks the store nothing.
func Open(rawURL string) (*Cache, error) {
	u, err := url.Parse(rawURL)
	if err != nil || u.Scheme != "s3" || u.Host == "" || u.Host != u.Hostname() || u.Fragment != "" {
		// Without what was given: it may hold what it should not.
		return nil, errors.New("s3cache: want a URL like s3://bucket/prefix?endpoint=host&region=name")
	}
	if u.User != nil {
		return nil, errors.New("s3cache: credentials belong into the environment or AWS's files, not into the URL")
	}
	settings, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, errors.New("s3cache: the URL's query is malformed")
	}
	for name, values := range settings {
		if name != "endpoint" && name != "region" && name != "style" || len(values) != 1 {
			return nil, errors.New("s3cache: the URL's query may have endpoint, region and style, each once")
		}
	}
	opts := &minio.Options{
		Secure: true,
		Region: cmp.Or(settings.Get("region"), os.Getenv("AWS_REGION"), os.Getenv("AWS_DEFAULT_REGION")),
		// minio-go's ten would be half a minute of a store that is down.
		MaxRetries: 3,
	}
	switch settings.Get("style") {
	case "":
	case "path":
		opts.BucketLookup = minio.BucketLookupPath
	case "virtual":
		opts.BucketLookup = minio.BucketLookupDNS
	default:
		return nil, errors.New("s3cache: style is path or virtual")
	}
	providers := []credentials.Provider{new(credentials.EnvAWS), new(credentials.FileAWSCredentials)}
	endpoint := settings.Get("endpoint")
	if endpoint == "" {
		endpoint = "s3.amazonaws.com"
		// A role is for AWS alone. The service that gives it is near, or not there.
		providers = append(providers, &credentials.IAM{Client: &http.Client{Timeout: 5 * time.Second}})
	} else {
		opts.Region = cmp.Or(opts.Region, "us-east-1")
		if host, ok := strings.CutPrefix(endpoint, "http://"); ok {
			endpoint, opts.Secure = host, false
		}
		endpoint = strings.TrimPrefix(endpoint, "https://")
	}
	opts.Creds = credentials.NewChainCredentials(providers)
	client, err := minio.New(endpoint, opts)
	if err != nil || strings.Contains(endpoint, "@") {
		return nil, errors.New("s3cache: the endpoint must be a host, or host:port")
	}
	return New(client, u.Host, u.Path), nil
}
