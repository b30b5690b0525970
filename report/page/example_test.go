package page_test

import (
	"fmt"
	"strings"

	"github.com/lntorch/lntorch/report/page"
)

func ExampleDocument() {
	d := page.Document{Title: "A grid of <runs>", Sections: []page.Section{{ID: "summary",
		Title: "Summary", Blocks: []page.Block{
			page.Facts{{Name: "Runs", Value: "2"}},
			&page.Table{ID: "runs", Caption: "Runs", Columns: []page.Column{{Name: "Method"},
				{Name: "Dice", Number: true}}, Rows: []page.Row{
				{Cells: []page.Cell{{Text: "full"}, {Text: "0.71"}}},
				{Cells: []page.Cell{{Text: "dgst"}, {Text: "0.74"}}}}},
		}}}}
	html, err := d.Encode()
	fmt.Println(err, strings.Count(string(html), "<tr"), strings.Contains(string(html), "&lt;runs&gt;"))
	// Output: <nil> 3 true
}
