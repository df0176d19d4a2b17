// An echo server and a client that checks every byte.
// usage: peer serve | call URL COUNT
package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
)

func body(number int) []byte {
	size := 1 + number*31%2000
	if number%4 == 0 {
		size = 1 + number*7919%300000
	}
	all := make([]byte, size)
	for place := range all {
		at := place % 65536
		all[place] = byte(number*31 + at*7 + at>>8)
	}
	return all
}

func call(url string, number int) error {
	sent := body(number)
	answer, err := http.Post(url, "application/octet-stream", bytes.NewReader(sent))
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	read, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if answer.StatusCode != 200 || !bytes.Equal(read, sent) {
		return fmt.Errorf("call %d: %d, %d of %d bytes", number, answer.StatusCode, len(read), len(sent))
	}
	return nil
}

func main() {
	if os.Args[1] == "serve" {
		http.HandleFunc("/", func(answer http.ResponseWriter, request *http.Request) {
			read, err := io.ReadAll(request.Body)
			if err == nil {
				answer.Header().Set("content-length", strconv.Itoa(len(read)))
				answer.Write(read)
			}
		})
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err == nil {
			fmt.Println("listening at", listener.Addr().(*net.TCPAddr).Port)
			err = http.Serve(listener, nil)
		}
		fmt.Println(err)
		os.Exit(1)
	}
	count, _ := strconv.Atoi(os.Args[3])
	for number := 0; number < count; number++ {
		if err := call(os.Args[2], number); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	fmt.Println("all right")
}
