# The medians of tests/bench as a bar chart (SVG): for each job the IOPS of every alternative, divided by those of the
# reference. It stands alone: no fonts, no scripts, colours for light and for dark pages.

BEGIN {
  FS = "\t"
  reference = "qemu-nbd"
  legend["torus"] = "torus: three daemons, three copies"
  legend["ceph"] = "Ceph RBD over qemu-nbd: three OSDs, three copies"
  width = 860; left = 190; right = 60; top = 142; bar = 15; gap = 16; tick = 0.25
}

# What was run, and behind the last semicolon on what.
/^#/ {
  run = machine = substr($0, 3)
  sub(/; [^;]*$/, "", run)
  sub(/^.*; /, "", machine)
  next
}
$1 == "system" || $1 == "disk" { next }
{
  if ($1 != reference && !($1 in known)) { known[$1]; systems[++system_count] = $1 }
  if (!($2 in seen)) { seen[$2]; jobs[++job_count] = $2 }
  iops[$1, $2] = $4
}

function escaped(words) {
  gsub(/&/, "\\&amp;", words); gsub(/</, "\\&lt;", words); gsub(/>/, "\\&gt;", words)
  return words
}

function text(class, x, y, anchor, what) {
  printf "<text class=\"%s\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">%s</text>\n", class, x, y, anchor, escaped(what)
}

function rule(class, x, from, to) {
  printf "<line class=\"%s\" x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\"/>\n", class, x, from, x, to
}

function rect(class, x, y, w, h) {
  printf "<rect class=\"%s\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"/>\n", class, x, y, w, h
}

function ratio(name, job) { return iops[name, job] / iops[reference, job] }

function at(value) { return left + value / most * (width - left - right) }

function upper(j, s) { return top + (j - 1) * group + (s - 1) * bar } # edge of the bar of job j, system s

# 12345 as 12,345.
function grouped(number,  digits) {
  digits = sprintf("%.0f", number)
  while (match(digits, /[0-9][0-9][0-9][0-9]($|,)/))
    digits = substr(digits, 1, RSTART) "," substr(digits, RSTART + 1)
  return digits
}

# The drawing's size, colours and description.
function head(height) {
  printf "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%d\" height=\"%d\" role=\"img\">\n", \
    width, height, width, height
  print "<title>Operations per second over NBD, as a ratio to one local copy, qemu-nbd on a raw file</title>"
  print "<style>"
  # Behind letters the page's own colour: where they cross a line they stay readable.
  print "text { font: 13px system-ui, sans-serif; fill: #1f2328; stroke: #ffffff; stroke-width: 3; paint-order: stroke }"
  print ".title { font-size: 17px; font-weight: 600 }"
  print ".small { font-size: 11px; fill: #59636e } .page { fill: #ffffff } .grid { stroke: #d8dee4 }"
  print ".one { stroke: #1f2328; stroke-width: 2; stroke-dasharray: 6 4 } .torus { fill: #1f6feb } .ceph { fill: #bf8700 }"
  print "@media (prefers-color-scheme: dark) {"
  print "text { fill: #e6edf3; stroke: #0d1117 } .small { fill: #9198a1 } .page { fill: #0d1117 } .grid { stroke: #2f353d }"
  print ".one { stroke: #e6edf3 } .torus { fill: #58a6ff } .ceph { fill: #d9a521 } }"
  print "</style>"
  rect("page", 0, 0, width, height)
}

END {
  most = 1.25
  for (key in iops) {
    split(key, part, SUBSEP)
    if (ratio(part[1], part[2]) > most) most = ratio(part[1], part[2])
  }
  # At most ten steps, each a number that one reads at a glance.
  while (most / tick > 10) tick *= 2
  most = tick * int(most / tick + 0.999)
  group = system_count * bar + gap
  bottom = top + job_count * group
  head(bottom + 62)

  text("title", 16, 28, "start", "Operations per second over NBD, as a ratio to one local copy")
  text("small", 16, 48, "start", run)
  text("small", 16, 63, "start", machine)
  x = 16
  for (s = 1; s <= system_count; s++) {
    name = systems[s]
    label = name in legend ? legend[name] : name
    rect(name, x, 80, 12, 12)
    text("label", x + 18, 91, "start", label)
    x += 40 + 7 * length(label)
  }

  for (r = 0; r <= most + tick / 2; r += tick) {
    rule("grid", at(r), top - 8, bottom)
    text("small", at(r), bottom + 16, "middle", sprintf("%.4g", r))
  }
  # The bars, the line across them, and then the numbers, which have to stay readable on it.
  for (j = 1; j <= job_count; j++) for (s = 1; s <= system_count; s++)
    if ((systems[s], jobs[j]) in iops)
      rect(systems[s], left, upper(j, s), at(ratio(systems[s], jobs[j])) - left, bar - 2)
  rule("one", at(1), top - 12, bottom)
  text("label", at(1), top - 17, "middle", "1 = qemu-nbd on a raw file: one local copy, no network")
  for (j = 1; j <= job_count; j++) {
    job = jobs[j]
    middle = upper(j, 1) + system_count * bar / 2
    text("label", left - 12, middle, "end", job)
    text("small", left - 12, middle + 13, "end", "1 = " grouped(iops[reference, job]) " a second")
    for (s = 1; s <= system_count; s++) if ((systems[s], job) in iops) {
      value = ratio(systems[s], job)
      text("label", at(value) + 5, upper(j, s) + bar - 4, "start", sprintf("%.2f", value))
    }
  }
  text("small", (left + width - right) / 2, bottom + 36, "middle",
    "ratio to the reference, medians of the rounds; more is better")
  print "</svg>"
}
