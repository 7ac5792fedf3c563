// Loaded into NNI's manager by NODE_OPTIONS=--require (idarts_nni/experiment.py).
// NNI 3.0 listens on all interfaces without a password, and some of its routes run code. Here every TCP server that
// names no host gets the loopback address, so that only this machine can reach it.
'use strict';
const net = require('net');
const listen = net.Server.prototype.listen;
const isPort = (value) => typeof value === 'number' || (typeof value === 'string' && /^\d+$/.test(value));

net.Server.prototype.listen = function (...args) {
    const first = args[0];
    if (isPort(first) && typeof args[1] !== 'string') {
        // listen(port[, backlog][, callback]): the host stands between port and backlog.
        if (args[1] === undefined || args[1] === null) args.splice(1, 1);
        args.splice(1, 0, '127.0.0.1');
    } else if (first && typeof first === 'object' && isPort(first.port) && !first.host) {
        args[0] = { ...first, host: '127.0.0.1' };
    }
    return listen.apply(this, args);
};
