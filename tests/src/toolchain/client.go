// Client asks a log, or a proxy of one, for the same few resources over and over, each time over a
// connection of its own, as many programs do that each read once. It tells how large the log is, how
// often it has asked, and every request that failed.
//
//	LOG_URL   what is asked, without a slash at its end
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"
)

var paths = []string{"checkpoint", "tile/0/000", "tile/entries/000", "tile/0/003"}

// pause between two requests: a load that a busy machine bears, too.
const pause = 20 * time.Millisecond

func main() {
	client := &http.Client{
		Timeout:   10 * time.Second,
		Transport: &http.Transport{DisableKeepAlives: true},
	}
	size := ""
	for asked := 1; ; asked++ {
		path := paths[asked%len(paths)]
		body, err := get(client, os.Getenv("LOG_URL")+"/"+path)
		if err != nil {
			fmt.Printf("failed %s %s: %v\n", time.Now().Format(time.TimeOnly), path, err)
		} else if lines := strings.Split(body, "\n"); path == "checkpoint" && len(lines) > 1 && lines[1] != size {
			size = lines[1]
			fmt.Printf("size %s\n", size)
		}
		if asked%20 == 0 {
			fmt.Printf("asked %d\n", asked)
		}
		time.Sleep(pause)
	}
}

func get(client *http.Client, url string) (string, error) {
	response, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", response.Status, body)
	}
	return string(body), err
}
