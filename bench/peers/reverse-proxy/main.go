// Go's own reverse proxy with one header injected: what most credential proxies are built on.
package main

import (
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
)

func main() {
	listen, upstream, key := os.Args[1], os.Args[2], os.Args[3]
	target, err := url.Parse(upstream)
	if err != nil {
		log.Fatal(err)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	// The default keeps two idle connections to a host, and would dial anew for nearly every request.
	transport.MaxIdleConnsPerHost = 1024
	transport.MaxIdleConns = 1024
	proxy := &httputil.ReverseProxy{
		Transport:     transport,
		FlushInterval: -1,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Header.Set("x-api-key", key)
		},
	}
	log.Fatal(http.ListenAndServe(listen, proxy))
}
