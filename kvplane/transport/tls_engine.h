// TlsEngine: one TLS 1.3 connection that works on memory: plain bytes in, coded bytes out and the other way
// round. It never waits and knows no socket; the tls transport and the HTTPS server move the coded bytes.
//
// Thread safety: none. Ownership: it keeps its context alive.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kvplane/base/status.h"
#include "kvplane/transport/tls_context.h"

namespace kvplane::transport {

class TlsEngine {
 public:
  // `host`: what the certificate of a server must be for, a name or an address; empty where no certificate is
  // shown (a server's own end, and keys from tokens). kInvalidArgument: nothing a certificate can be for.
  static base::Result<std::unique_ptr<TlsEngine>> Create(std::shared_ptr<const TlsContext> context,
                                                         TlsEnd end, const std::string& host);
  ~TlsEngine();
  TlsEngine(const TlsEngine&) = delete;
  TlsEngine& operator=(const TlsEngine&) = delete;

  // Goes on with the handshake: true when it is done, false when it needs input. Afterwards there may be
  // output to send, also after an error (the alert that tells the peer). kPermissionDenied says why the peer
  // was refused, or refused this end.
  base::Result<bool> Handshake();

  // Coded bytes from the peer; they must stay until Handshake() or Decode() asks for more.
  void Feed(std::span<const std::byte> coded);

  // Plain bytes at the front of `into`; 0: needs input. kUnavailable: the peer has closed, or what came was
  // altered. kPermissionDenied: the peer refused this end's certificate (it judges after our handshake).
  base::Result<size_t> Decode(std::span<std::byte> into);

  // Appends the coded form of `plain` to the output.
  base::Status Encode(std::span<const std::byte> plain);

  // What is encoded from now on gets a new key (KeyUpdate, RFC 8446, section 4.6.3).
  base::Status ChangeKey();

  // Tells the peer that nothing follows, so that it can tell the end from a cut (close_notify).
  void Close();

  // Replaces `into` by the output and leaves none.
  void TakeOutput(std::vector<std::byte>& into);

  // The handshake is over and a byte of the peer has been decoded: it has accepted this end.
  bool anything_read() const { return anything_read_; }
  bool uses_tokens() const { return context_->uses_tokens(); }

 private:
  struct State;
  TlsEngine(std::shared_ptr<const TlsContext> context, std::unique_ptr<State> state, std::string host);
  base::Status Broken(std::string_view what) const;
  base::Status Refused() const;

  const std::shared_ptr<const TlsContext> context_;
  const std::unique_ptr<State> state_;
  const std::string host_;
  bool anything_read_ = false;
};

}  // namespace kvplane::transport
