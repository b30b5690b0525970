package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"runtime"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lntorch/lntorch/pipeline"
)

func newView() *cobra.Command {
	var c pipeline.ViewConfig
	var asJSON, open bool
	cmd := &cobra.Command{
		Use:   "view IMAGE [LABELS…]",
		Short: "shows an image, label maps and their nodes in the browser, on this machine only",
		Long: `view prints one URL, at which a browser shows slices of IMAGE in three planes and a 3-D view, with labels as contours
and a list of their nodes (volume, short axis, centroid) that leads to each of them. It serves until Ctrl-C.

IMAGE is any image file that reads, or DICOM: a file, a folder or a zip. LABELS are label maps, or RTSTRUCT and SEG,
which are drawn on IMAGE. Of several the first is the truth: each other one is compared with it, node by node (found,
missed, invented, by evaluate's rule iou:0.3) and voxel by voxel. Names of labels come from dataset.json beside them.

The images stay on this machine: they are served from memory, to who knows the URL, which has a random token in it, and
only at this machine's own address unless --host says otherwise. Nothing is written, and nothing is fetched from
elsewhere. Over ssh it says how to reach the page from where you sit. The keys are listed under ? in the page.

--json prints {"url", "port"}.`,
		Example: `  lntorch view LN_000_0000.nii.gz
  lntorch view imagesTs/LN_004_0000.nii.gz labelsTs/LN_004.nii.gz predictions/LN_004.nii.gz --open
  lntorch view /media/CD/CT rtstruct.dcm
  lntorch view scan.nrrd nodes.nrrd --port 8765`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usage(cmd, errors.New("found no argument, expected IMAGE [LABELS…]"))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			c.Image, c.Labels = args[0], args[1:]
			return pipeline.View(cmd.Context(), c, output(cmd), func(v pipeline.Viewing) error {
				if asJSON {
					if err := printJSON(v); err != nil {
						return err
					}
				} else {
					fmt.Println(v.URL)
				}
				if text := tunnel(os.Getenv("SSH_CONNECTION"), v); text != "" {
					fmt.Fprintln(os.Stderr, text)
				}
				if open {
					if err := openBrowser(v.URL); err != nil {
						fmt.Fprintf(os.Stderr, "--open: %v: open the URL yourself\n", err)
					}
				}
				fmt.Fprintln(os.Stderr, "Ctrl-C ends it")
				return nil
			})
		},
	}
	bind(cmd, &c)
	jsonFlag(cmd, &asJSON)
	cmd.Flags().BoolVar(&open, "open", false, "open the URL in the browser")
	return cmd
}

// tunnel says how the page is reached from the other end of an ssh connection ("client port server
// port", as sshd sets it); "" without one.
func tunnel(connection string, v pipeline.Viewing) string {
	ends := strings.Fields(connection)
	if len(ends) != 4 || !v.Loopback {
		return ""
	}
	server := ends[2]
	if u, err := user.Current(); err == nil {
		server = u.Username + "@" + server
	}
	if ends[3] != "22" {
		server = "-p " + ends[3] + " " + server
	}
	bound, _, _ := strings.Cut(strings.TrimPrefix(v.URL, "http://"), "/")
	host, _, err := net.SplitHostPort(bound)
	if err != nil {
		return ""
	}
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	port := strconv.Itoa(v.Port)
	return "This is an ssh session: type on the machine where you sit\n  ssh -N -C -L " + port + ":" + host +
		":" + port + " " + server + "\nand open the URL there."
}

// openBrowser starts the desktop's browser, and does not wait for it.
func openBrowser(url string) error {
	programs := []string{"xdg-open", "sensible-browser", "x-www-browser"}
	if runtime.GOOS == "darwin" {
		programs = []string{"open"}
	} else if os.Getenv("DISPLAY") == "" && os.Getenv("WAYLAND_DISPLAY") == "" {
		return errors.New("found no browser: this session has no desktop (DISPLAY is not set)")
	}
	for _, name := range programs {
		path, err := exec.LookPath(name)
		if err != nil {
			continue
		}
		browser := exec.Command(path, url)
		if err := browser.Start(); err != nil {
			return err
		}
		go browser.Wait()
		return nil
	}
	return fmt.Errorf("found no browser (looked for %s)", strings.Join(programs, ", "))
}
