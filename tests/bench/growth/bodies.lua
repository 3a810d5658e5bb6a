-- wrk: each line of a file is the body of one POST with both headers; when as many are answered as there are lines, it
-- says so on stderr and stops.
-- Arguments: the file, the client's id, its secret. What is sent while the
-- last answers are on their way are the first lines again.
local bodies, number, head = {}, 0, ""

function init(args)
    for line in io.lines(args[1]) do
        bodies[#bodies + 1] = line
    end
    head = table.concat({
        "POST " .. wrk.path .. " HTTP/1.1",
        "Host: localhost",
        "Content-Type: application/json",
        "x-client-id: " .. args[2],
        "x-client-secret: " .. args[3],
        "Content-Length: "}, "\r\n")
end

function request()
    number = number + 1
    local body = bodies[(number - 1) % #bodies + 1]
    return head .. #body .. "\r\n\r\n" .. body
end

local answered = 0
function response()
    answered = answered + 1
    if answered == #bodies then
        io.stderr:write("all answered\n")
        wrk.thread:stop()
    end
end

function done(summary, latency)
    local e = summary.errors
    io.write(string.format('figures {"requests": %d, "duration_us": %d, "p50_us": %d, "p99_us": %d, "errors": %d}\n',
        summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
        e.connect + e.read + e.write + e.status + e.timeout))
end
