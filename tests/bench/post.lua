-- wrk: each request is the admission of another respondent, with both headers. Arguments: a tag that no other load
-- has, the client's id, its secret.
local head, tail
local number = 0

function init(args)
    local before = '{"event":"admitted_respondent","respondent_id":"' .. args[1] .. '-'
    tail = '","exam_id":"exam-1","admittedOn":1719221380326}'
    head = table.concat({
        "POST " .. wrk.path .. " HTTP/1.1",
        "Host: localhost",
        "Content-Type: application/json",
        "Content-Length: " .. (#before + 8 + #tail),
        "x-client-id: " .. args[2],
        "x-client-secret: " .. args[3],
        "", before}, "\r\n")
end

function request()
    number = number + 1
    return head .. string.format("%08d", number) .. tail
end

function done(summary, latency)
    local e = summary.errors
    io.write(string.format('figures {"requests": %d, "duration_us": %d, "p50_us": %d, "p99_us": %d, "errors": ' ..
        '{"connect": %d, "read": %d, "write": %d, "status": %d, "timeout": %d}}\n', summary.requests,
        summary.duration, latency:percentile(50), latency:percentile(99), e.connect, e.read, e.write, e.status,
        e.timeout))
end
