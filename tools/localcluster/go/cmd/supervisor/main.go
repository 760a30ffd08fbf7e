// Command supervisor starts the processes of a cluster, restarts those that end, and takes all of
// them with it when it ends, however it ends. In a PID namespace of its own it is process 1.
//
// It reads the list of processes from its standard input, so that whoever started it can prepare
// the network of its namespaces first, and holds a lock on a file for as long as it lives: a free
// lock means that no cluster runs.
package main

import (
	"encoding/json"
	"flag"
	"log"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A process that ends sooner than this after its start is restarted only after as long.
const restartDelay = time.Second

// Process is one program to keep running.
type Process struct {
	Name string   `json:"name"`
	Args []string `json:"args"` // the program's path first
	Env  []string `json:"env"`
	Log  string   `json:"log"`
}

func main() {
	lockPath := flag.String("lock", "", "file to lock while running")
	flag.Parse()
	// The kernel ties "die with the parent" to the thread that started the child.
	runtime.LockOSThread()
	lock(*lockPath)
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		log.Fatalf("cannot adopt orphans: %v", err)
	}
	var processes []Process
	if err := json.NewDecoder(os.Stdin).Decode(&processes); err != nil {
		log.Fatalf("standard input holds no list of processes: %v", err)
	}
	terminated := make(chan os.Signal, 1)
	signal.Notify(terminated, syscall.SIGTERM, syscall.SIGINT)
	died := make(chan os.Signal, 64)
	signal.Notify(died, syscall.SIGCHLD)
	supervise(processes, terminated, died)
}

// lock takes the lock without waiting; the open file keeps it until this process ends. It is a record
// lock because whoever asks the kernel about one is told the identifier of its holder.
func lock(path string) {
	descriptor, err := unix.Open(path, unix.O_CREAT|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err == nil {
		err = unix.FcntlFlock(uintptr(descriptor), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
	}
	if err != nil {
		log.Fatalf("cannot lock %s, is this cluster running already? %v", path, err)
	}
}

func supervise(processes []Process, terminated, died <-chan os.Signal) {
	running := map[int]Process{}
	due := map[string]time.Time{}
	tick := time.NewTicker(restartDelay / 4)
	for {
		for _, process := range processes {
			if when, waiting := due[process.Name]; !waiting || time.Now().After(when) {
				running[start(process)] = process
				due[process.Name] = time.Now().Add(1 << 62) // while it runs
			}
		}
		select {
		case <-terminated:
			return // the children get their death signal
		case <-died:
		case <-tick.C:
		}
		for _, name := range reap(running) {
			log.Printf("%s ended, starting it again", name)
			due[name] = time.Now().Add(restartDelay)
		}
	}
}

// start returns the identifier of the started process, or 0 when it could not be started.
func start(process Process) int {
	output, err := os.OpenFile(process.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		log.Fatalf("cannot write the log of %s: %v", process.Name, err)
	}
	defer output.Close()
	child, err := os.StartProcess(process.Args[0], process.Args, &os.ProcAttr{
		Env:   append(os.Environ(), process.Env...),
		Files: []*os.File{nil, output, output},
		Sys:   &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true},
	})
	if err != nil {
		log.Fatalf("cannot start %s: %v", process.Name, err)
	}
	return child.Pid
}

// reap collects every child that ended, orphans included, and returns the names of ours.
func reap(running map[int]Process) []string {
	var ended []string
	for {
		pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
		if pid <= 0 || err != nil {
			return ended
		}
		if process, ours := running[pid]; ours {
			delete(running, pid)
			ended = append(ended, process.Name)
		}
	}
}
