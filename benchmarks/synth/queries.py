"""KQL of our own: queries that are whole, and ways to break one."""

from __future__ import annotations

import random
import re

QUERIES = r"""
Perf

Perf
| count

Heartbeat
| where TimeGenerated > ago(1h)
| summarize arg_max(TimeGenerated, *) by Computer

Perf
| where ObjectName == "Processor" and CounterName == "% Processor Time"
| summarize avg(CounterValue) by bin(TimeGenerated, 5m), Computer

requests
| where timestamp between (ago(2d) .. ago(1d))
| where success == false
| project timestamp, name, resultCode, duration
| order by timestamp desc

let slow = 500ms;
requests
| where duration > slow
| take 20

let hot = (limit: real) { Perf
| where CounterValue > limit };
hot(0.9)
| distinct Computer

GpuMetrics
| where Utilization < 10
| summarize idle = count() by Node, Gpu
| top 10 by idle desc

Syslog
| where SeverityLevel in ("err", "crit")
| summarize count() by Computer, bin(TimeGenerated, 1h)
| render timechart

Events
| extend code = toint(extract(@"code=(\d+)", 1, Message))
| where isnotnull(code)

A
| join kind=inner (B | where x > 1) on Id
| project Id, x

A
| join kind=leftanti B on $left.NodeId == $right.Id

Jobs
| lookup kind=leftouter Owners on JobId

union withsource=TableName Perf, Heartbeat
| summarize rows = count() by TableName

union Perf*, (Heartbeat | take 5)

Pods
| mv-expand container = Containers to typeof(string)
| summarize dcount(container) by Namespace

Pods
| mv-apply c = Containers on (where c.ready == false | project name = c.name)

Logs
| parse Message with "job " JobId:long " ended with " Status:string " after " Seconds:real "s"

Logs
| parse kind=regex Message with @".*node=" Node @"\s.*"

Metrics
| make-series avg(Value) default=0 on Timestamp from ago(1d) to now() step 10m by Host

Queue
| where Priority !in ("low", "none") and Owner !has "test"
| sort by Submitted asc nulls last, Priority

Disk
| extend share = round(100.0 * Used / Size, 2)
| where share >= 90
| project Host, Mount, share

Alerts
| where Title has_any ("throttle", "thermal") or Title startswith "ECC"

Audit
| where Path matches regex @"^/api/v[0-9]+/jobs"
| summarize hits = count(), users = dcount(User) by Path

range n from 1 to 10 step 1
| extend square = n * n

print answer = strcat("node-", tostring(42)), now()

datatable (Host: string, Load: real) ["a", 0.5, "b", 0.9]
| where Load > 0.7

Errors
| summarize make_set(Code, 100), take_any(Message) by Service
| where array_length(set_Code) > 3

Perf
| evaluate pivot(Computer, avg(CounterValue))

Events
| project-away _ResourceId, Tenant*
| project-rename Node = Computer

Events
| project-reorder Timestamp, * asc

Traffic
| where isnotempty(ClientIp)
| extend private = ipv4_is_private(ClientIp)
| summarize sum(Bytes) by private

Jobs
| where State =~ "failed"
| extend took = Ended - Started
| summarize percentiles(took, 50, 95, 99) by Queue

Jobs
| serialize
| extend gap = Started - prev(Ended)
| where gap > 15min
| project JobId, gap

Jobs
| sample-distinct 5 of Queue

Jobs
| sample 10
| getschema

Nodes
| extend region = case(Zone startswith "eu", "Europe", Zone startswith "us", "America", "else")
| summarize n = count() by region

Nodes
| extend tag = Tags["owner"], label = Labels[0].name
| where tag != ""

Nodes
| where (Cores > 8 and Memory >= 64) or not(Ready) // the big ones
| distinct Name, Cores

cluster("metrics").database("gpu").Power
| where Watts > 650
| count

let start = datetime(2026-01-01 00:00:00);
let end = start + 7d;
Logins
| where When between (start .. end)
| summarize count() by bin(When, 1d)

let worst = toscalar(Perf
| summarize max(CounterValue));
Perf
| where CounterValue == worst

search in (Syslog, Event) "out of memory" | take 50

Perf
| summarize hint.shufflekey=Computer avg(CounterValue) by Computer

Perf
| where Computer in ((Heartbeat | where OSType == "Linux" | distinct Computer))
| limit 3

Perf
| as hint.materialized=true P
| union (P | take 1)

Builds
| extend d = todynamic(Details)
| extend version = tostring(d.version), ok = tobool(d["ok"])
| where ok

Steps
| scan declare (total: long = 0) with (step s: true => total = s.total + Tokens;)

Steps
| partition hint.strategy=native by RunId (top 1 by Loss asc)

Runs
| extend bag = bag_pack("lr", Lr, "batch", Batch)
| project RunId, bag

Runs
| where Loss < 2.5 and Tokens > 1e9
| extend per_gpu = Tokens / (Gpus * 1.0)
| top-nested 3 of Model by max(per_gpu)

Files
| where Name !endswith ".tmp"
| summarize total = sum(Size) by extension = tostring(split(Name, ".")[-1])

Costs
| summarize spend = sum(Price) by Team, month = startofmonth(Day)
| order by month asc, spend desc

Throttling
| where Reason has "power"
| summarize n = count() by Gpu
| where n > 3
| join kind=inner (Gpus
| project Gpu, Serial) on Gpu

set notruncation;
Perf | take 10

Perf
| consume

T
| where x == -1 and y != +2 and z !contains "a"
| invoke clean(3)

Usage
| summarize arg_min(When, Who), stdev(Amount), variance(Amount) by Kind
| serialize rank = row_number()

Links
| where Speed < 200 and State == "up"
| summarize bad = countif(Errors > 0), all = count() by Switch
| extend share = bad * 1.0 / all

Power
| make-series draw = sum(Watts) on When step 1h by Rack
| extend anomalies = series_decompose_anomalies(draw, 1.5)
| render anomalychart with (title="power", ysplit=panels)
""".strip().split("\n\n")


def breakers() -> dict[str, object]:
    """Ways to break a query; each gives None where it does not apply."""
    return {
        "operator": lambda q, draw: _replace(
            q, r"\|\s*(where|summarize|project|extend|take|order|count|distinct)\b", "| filtering_by", draw
        ),
        "bracket": lambda q, draw: _replace(q, r"\)", "", draw),
        "quote": lambda q, draw: _replace(q, r'"(?=[\s,)]|$)', "", draw),
        "empty stage": lambda q, draw: _replace(q, r"\|", "| |", draw),
        "dangling pipe": lambda q, draw: q.rstrip() + " |" if "|" in q else None,
        "no argument": lambda q, draw: (
            re.sub(r"\|\s*(where|extend|project|take)\b[^|]*$", r"| \1", q)
            if re.search(r"\|\s*(where|extend|project|take)\b[^|()]*$", q)
            else None
        ),
        "cut off": lambda q, draw: q[: m.end()] if (m := re.search(r"(==|>|<|\bby|\band)\s", q)) else None,
        "sql": lambda q, draw: "SELECT * FROM " + q.split()[0] + " WHERE x = 1 ORDER BY x",
        "comparison": lambda q, draw: _replace(q, r"==", "= = =", draw),
        "comma": lambda q, draw: _replace(q, r",", ",,", draw),
    }


def _replace(query: str, pattern: str, new: str, draw: random.Random) -> str | None:
    matches = list(re.finditer(pattern, query))
    if not matches:
        return None
    match = draw.choice(matches)
    return query[: match.start()] + new + query[match.end() :]
