"""Durable intake: the same POST of an admission through the same nginx, at 1, 32 and 64 connections."""
from contestants import CONTESTANTS, Ours
from harness import NotRun, Nginx, Target, load, memory, same_work, settle, summary
from peers import PEERS

FIGURE_NAMES = {"requests_s": "requests/s", "cpu_10k": "CPU per request", "p99_ms": "p99"}


class Intake:
    name, title, order = "intake", "Durable intake", 10

    def __init__(self, bench):
        self.bench = bench
        self.contestants, self.not_run, self.cells, self.memory = [], {}, {}, {}
        self.wrong, self.nginx, self.broken = [], None, set()

    # --- Measuring -------------------------------------------------------------------------------------------

    def candidates(self):
        found = CONTESTANTS + ([] if self.bench.mode == "short" and not self.bench.only else PEERS)
        made = [make(self.bench) for make in found if self.bench.wants(make.name)]
        return made + [Ours(self.bench, name, build=build) for name, build in self.bench.also]

    def prepare(self):
        for contestant in self.candidates():
            try:
                contestant.start()
            except NotRun as reason:
                self.not_run[contestant.name] = "%s" % reason
                self.bench.say("  %s: not run: %s" % (contestant.title, reason))
                continue
            self.contestants.append(contestant)
        self.nginx = Nginx(self.bench, self.contestants)
        for contestant in self.contestants:
            self.found(contestant, same_work(contestant))
            settle(contestant, self.nginx, 0)

    def rounds(self):
        return self.bench.rounds or self.bench.pick(full=5, quick=1, short=1)

    def round(self, number):
        """Each contestant at each number of connections; every round begins with another one."""
        first = number % max(1, len(self.contestants))
        for contestant in self.contestants[first:] + self.contestants[:first]:
            for connections in self.bench.connections:
                seconds = self.bench.seconds or self.bench.pick(full=2, quick=1, short=1)
                cell = load(contestant, self.nginx, connections, seconds, "r%d-c%d" % (number, connections))
                self.found(contestant, ["%d connections: %s" % (connections, what) for what in cell["wrong"]])
                self.cells.setdefault(contestant.name, {}).setdefault(connections, []).append(cell)
                self.bench.say("  round %d, %d connections, %s: %.0f requests/s%s" % (
                    number + 1, connections, contestant.title, cell["requests_s"],
                    " WRONG" if cell["wrong"] else ""))
            self.memory[contestant.name] = memory(contestant.roots())

    def found(self, contestant, wrong):
        if wrong:
            self.broken.add(contestant.name)
        for what in wrong:
            self.wrong.append("%s: %s" % (contestant.title, what))

    def close(self):
        if self.nginx:
            self.nginx.process.stop()
        for contestant in self.contestants:
            if contestant.process:
                contestant.process.stop()

    # --- What came out ---------------------------------------------------------------------------------------

    def value(self, name, connections, figure):
        """The median over the rounds, or None."""
        cells = self.cells.get(name, {}).get(connections)
        return summary([cell[figure] for cell in cells])["median"] if cells else None

    def figures(self):
        found = {}
        for c in self.contestants:
            rows = {}
            for connections, cells in self.cells.get(c.name, {}).items():
                rows[str(connections)] = {name: summary([cell[name] for cell in cells]) for name in
                                          ("requests_s", "p50_ms", "p99_ms", "cpu_10k", "nginx_cpu_10k")}
                rows[str(connections)].update({name: sum(cell[name] or 0 for cell in cells) for name in
                                               ("requests", "ok", "status_5xx", "rows")})
                rows[str(connections)]["rounds"] = cells
            found[c.name] = {"title": c.title, "kind": c.kind, "stores": c.stores, "batches": c.batches,
                             "command": c.process.command if c.process else None, "connections": rows,
                             "memory": self.memory.get(c.name) if c.process else None}
        return {"contestants": found, "not_run": self.not_run}

    def peers(self, batches):
        """The peers that store, and did nothing wrong."""
        return [c.name for c in self.contestants
                if c.kind == "peer" and c.stores and c.batches == batches and c.name not in self.broken]

    def best(self, connections, figure, pick, batches=False):
        """The name of the best of them."""
        values = [(self.value(name, connections, figure), name) for name in self.peers(batches)]
        values = [pair for pair in values if pair[0] is not None]
        return pick(values)[1] if values else ""

    def ratio(self, what, wanted, connections, figure, name, most=False):
        """Ours against another's: the median of the rounds' ratios. Beside it, for a peer, the ratio to the one that
        batches."""
        def ratios(other):
            pairs = zip(self.cells.get("ours", {}).get(connections, []), self.cells.get(other, {}).get(connections, []))
            return [ours[figure] / theirs[figure] for ours, theirs in pairs if theirs[figure]]
        seen, notes = ratios(name), []
        if name in self.peers(False):
            notes = [name] + ["%s: %.3g" % (other, summary(ratios(other))["median"])
                              for other in self.peers(True) if ratios(other)]
        return Target("%s at %d, against %s" % (FIGURE_NAMES[figure], connections, what), wanted,
                      summary(seen)["median"] if seen else None, most, "; ".join(notes), seen)

    def targets(self):
        rows = []
        for n in (32, 64):
            if n not in self.bench.connections:
                continue
            rows += [self.ratio("the best peer that commits each request", 7, n, "requests_s",
                                self.best(n, "requests_s", max)),
                     self.ratio("the peer that batches", 1, n, "requests_s", self.best(n, "requests_s", max, batches=True)),
                     self.ratio("libfcgi in threads doing nothing", 1, n, "requests_s", "threads"),
                     self.ratio("a libfcgi event loop doing nothing", 0.6, n, "requests_s", "loop"),
                     self.ratio("libfcgi in threads doing nothing", 0.8, n, "cpu_10k", "threads", most=True),
                     self.ratio("the best peer's", 1 / 8, n, "cpu_10k", self.best(n, "cpu_10k", min), most=True)]
        if 64 in self.bench.connections:
            rows.append(self.ratio("the best peer's", 1 / 6, 64, "p99_ms", self.best(64, "p99_ms", min), most=True))
        if 1 in self.bench.connections:
            rows.append(self.ratio("the best peer", 1, 1, "requests_s", self.best(1, "requests_s", max)))
        ours = self.memory.get("ours")
        rows.append(Target("resident memory of the route program, MiB", 8, ours and ours["rss_peak_mib"], most=True))
        return rows

    def report(self):
        """The table, as Markdown: what was measured, and in brackets its ratio to ours."""
        lines = []
        for connections in self.bench.connections:
            lines += ["", "| %d connection%s | requests/s | least-most | p50 ms | p99 ms | CPU s/10,000 | nginx's | RSS MiB | PSS MiB, all | 5xx |"
                      % (connections, "" if connections == 1 else "s"), "|---|---|---|---|---|---|---|---|---|---|"]
            lines += [self.line(c, connections) for c in self.contestants if connections in self.cells.get(c.name, {})]
        lines += ["", *("%s: not run: %s" % pair for pair in sorted(self.not_run.items()))]
        return lines

    def line(self, c, connections):
        def with_ratio(figure, form):
            value, ours = self.value(c.name, connections, figure), self.value("ours", connections, figure)
            return (form + "%s") % (value, " (%.2f)" % (value / ours) if ours else "")
        cells = self.cells[c.name][connections]
        speed = [cell["requests_s"] for cell in cells]
        held = self.memory.get(c.name) or {}
        return "| %s%s | %s | %.0f-%.0f | %s | %s | %s | %.3f | %s | %s | %d |" % (
            c.title, " WRONG" if c.name in self.broken else "", with_ratio("requests_s", "%.0f"), min(speed), max(speed),
            with_ratio("p50_ms", "%.2f"), with_ratio("p99_ms", "%.2f"),
            with_ratio("cpu_10k", "%.3f") if c.process else "-", self.value(c.name, connections, "nginx_cpu_10k"),
            held.get("rss_peak_mib", "-") if c.process else "-", held.get("pss_mib", "-") if c.process else "-", sum(cell["status_5xx"] for cell in cells))


PART = Intake
