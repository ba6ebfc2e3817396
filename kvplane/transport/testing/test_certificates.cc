#include "kvplane/transport/testing/test_certificates.h"

#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include "kvplane/base/check.h"

namespace kvplane::transport {
namespace {

template <auto Free>
struct Deleter {
  template <typename T>
  void operator()(T* object) const {
    Free(object);
  }
};
using Certificate = std::unique_ptr<X509, Deleter<X509_free>>;
using PrivateKey = std::unique_ptr<EVP_PKEY, Deleter<EVP_PKEY_free>>;
using Bio = std::unique_ptr<BIO, Deleter<BIO_free_all>>;
using Extension = std::unique_ptr<X509_EXTENSION, Deleter<X509_EXTENSION_free>>;

PrivateKey NewKey() { return PrivateKey(EVP_EC_gen("P-256")); }

Certificate NewCertificate(EVP_PKEY* key, const char* name, long serial, long from_s, long to_s) {
  Certificate certificate(X509_new());
  X509* const x = certificate.get();
  KVPLANE_CHECK(X509_set_version(x, X509_VERSION_3) == 1);
  KVPLANE_CHECK(ASN1_INTEGER_set(X509_get_serialNumber(x), serial) == 1);
  KVPLANE_CHECK(X509_gmtime_adj(X509_getm_notBefore(x), from_s) != nullptr);
  KVPLANE_CHECK(X509_gmtime_adj(X509_getm_notAfter(x), to_s) != nullptr);
  KVPLANE_CHECK(X509_set_pubkey(x, key) == 1);
  KVPLANE_CHECK(X509_NAME_add_entry_by_txt(X509_get_subject_name(x), "CN", MBSTRING_ASC,
                                           reinterpret_cast<const unsigned char*>(name), -1, -1, 0) == 1);
  return certificate;
}

void AddExtension(X509* certificate, X509* issuer, int nid, const char* value) {
  X509V3_CTX context;
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  const Extension extension(X509V3_EXT_conf_nid(nullptr, &context, nid, value));
  KVPLANE_CHECK(extension != nullptr);
  KVPLANE_CHECK(X509_add_ext(certificate, extension.get(), -1) == 1);
}

std::string TextOf(BIO* bio) {
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio, &data);
  return std::string(data, static_cast<size_t>(size));
}

std::string PemOf(X509* certificate) {
  const Bio bio(BIO_new(BIO_s_mem()));
  KVPLANE_CHECK(PEM_write_bio_X509(bio.get(), certificate) == 1);
  return TextOf(bio.get());
}

}  // namespace

struct TestAuthority::State {
  PrivateKey key = NewKey();
  Certificate certificate = NewCertificate(key.get(), "kvplane test authority", 1, -7200, 7200);
  long next_serial = 2;
};

TestAuthority::TestAuthority() : state_(std::make_unique<State>()) {
  X509* const x = state_->certificate.get();
  KVPLANE_CHECK(X509_set_issuer_name(x, X509_get_subject_name(x)) == 1);
  AddExtension(x, x, NID_basic_constraints, "critical,CA:TRUE");
  AddExtension(x, x, NID_key_usage, "critical,keyCertSign");
  AddExtension(x, x, NID_subject_key_identifier, "hash");
  KVPLANE_CHECK(X509_sign(x, state_->key.get(), EVP_sha256()) > 0);
}

TestAuthority::~TestAuthority() = default;

TlsCredentials TestAuthority::Sign(const std::string& subject_alt_name, long from_s, long to_s) const {
  const PrivateKey key = NewKey();
  const Certificate certificate =
      NewCertificate(key.get(), "kvplane test node", state_->next_serial++, from_s, to_s);
  X509* const x = certificate.get();
  X509* const issuer = state_->certificate.get();
  KVPLANE_CHECK(X509_set_issuer_name(x, X509_get_subject_name(issuer)) == 1);
  AddExtension(x, issuer, NID_subject_alt_name, subject_alt_name.c_str());
  AddExtension(x, issuer, NID_authority_key_identifier, "keyid");
  KVPLANE_CHECK(X509_sign(x, state_->key.get(), EVP_sha256()) > 0);
  TlsCredentials out;
  out.certificate_pem = PemOf(x);
  const Bio bio(BIO_new(BIO_s_mem()));
  KVPLANE_CHECK(PEM_write_bio_PrivateKey(bio.get(), key.get(), nullptr, nullptr, 0, nullptr, nullptr) == 1);
  out.key_pem = TextOf(bio.get());
  return out;
}

std::string TestAuthority::pem() const { return PemOf(state_->certificate.get()); }

}  // namespace kvplane::transport
