package modfetchtest

import "strings"

// parseTxtar takes a txtar archive apart: a comment, then files, each after a line "-- name --". A file that does not end
// with a newline gets one. There are no malformed archives; text without such a line is all comment.
func parseTxtar(text string) (comment string, files []file) {
	section, start, pos := &comment, 0, 0
	end := func() {
		*section = text[start:pos]
		if *section != "" && !strings.HasSuffix(*section, "\n") {
			*section += "\n"
		}
	}
	for line := range strings.Lines(text) {
		if name := txtarMarker(line); name != "" {
			end()
			files = append(files, file{name: name})
			section, start = &files[len(files)-1].data, pos+len(line)
		}
		pos += len(line)
	}
	end()
	return comment, files
}

// txtarMarker returns the name in a line that starts a file, or "".
func txtarMarker(line string) string {
	line = strings.TrimRight(line, "\r\n")
	line, ok := strings.CutPrefix(line, "-- ")
	if !ok {
		return ""
	}
	name, ok := strings.CutSuffix(line, " --")
	if !ok {
		return ""
	}
	return strings.TrimSpace(name)
}
